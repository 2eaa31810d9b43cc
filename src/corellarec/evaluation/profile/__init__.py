"""The profile of a log before any training: its figures, its page, its summary."""
