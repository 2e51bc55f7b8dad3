"""The experts of each layer: norms, breadth, chains through depth."""
