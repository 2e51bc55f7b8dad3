"""Parts of the Layers page: two layers, and each layer beside the next."""
