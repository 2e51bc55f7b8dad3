"""What the model is run for on the page Features: a text of one's own, a feature turned up."""
