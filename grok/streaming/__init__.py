"""Running a model whose weights stay on disk: layer by layer, through a few buffers."""
