"""Maps and trees of layers on the clustering page."""
