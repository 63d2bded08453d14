"""What may be used, and how much of it is left."""
