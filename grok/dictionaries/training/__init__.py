"""Training of dictionaries: settings, activations, losses, steps, and what survives a kill."""
