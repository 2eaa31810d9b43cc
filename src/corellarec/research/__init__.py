"""Searches, baselines and studies: many runs, compared."""
