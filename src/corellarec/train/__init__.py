"""One training loop, three stages, and the loss that aligns the two models."""
