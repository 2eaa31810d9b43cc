"""The networks of the conventional models, one file each."""
