"""What each expert listens to in the vocabulary."""
