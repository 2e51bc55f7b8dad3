"""Trees, groups and maps of layers, with what chance gives."""
