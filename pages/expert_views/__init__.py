"""Parts of the Experts page: one expert, its layer, its chain through the layers."""
