"""Redis: what machines share. Scripts in `lua/`, the adapter that sends them, and the runner of leases."""
