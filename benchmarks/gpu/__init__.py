"""A full-size layer on a GPU, and layers streamed to it."""
