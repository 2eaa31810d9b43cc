"""What ranks all items without training: popularity, item-kNN, EASE."""
