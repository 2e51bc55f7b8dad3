"""Many routed texts: stored runs, labels, the words of each expert."""
