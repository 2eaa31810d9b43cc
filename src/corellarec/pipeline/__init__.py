"""A run: one directory, filled step by step; every step that is already there is left alone."""
