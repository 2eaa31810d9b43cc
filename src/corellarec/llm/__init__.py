"""Language models that read a user and answer yes or no."""
