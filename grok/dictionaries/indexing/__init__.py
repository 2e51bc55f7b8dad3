"""A database of a dictionary's features, from one pass over text; `lens.features` reads it."""
