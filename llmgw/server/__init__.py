"""The edge: where connections come in, and where errors become HTTP."""
