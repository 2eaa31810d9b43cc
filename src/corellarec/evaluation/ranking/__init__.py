"""Ranking as a second task: lists of items measured against what users then took."""
