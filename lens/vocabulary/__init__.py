"""Read-out of the vocabulary: the tokens that each expert is chosen for."""
