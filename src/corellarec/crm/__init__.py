"""Conventional recommender models: ids and attributes in, a logit and named layers out."""
