"""Whom to ask, what to do with the answer, and whether asking is worth it at all."""
