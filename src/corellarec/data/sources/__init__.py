"""The layouts a log comes in, one file each."""
