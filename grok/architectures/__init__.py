"""What a family of models is to everything that runs it."""
