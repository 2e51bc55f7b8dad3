"""Compare: two texts, or a text with and without a change."""
