"""One pass over the weights, wherever they are."""
