"""A run: its directory, and its steps."""
