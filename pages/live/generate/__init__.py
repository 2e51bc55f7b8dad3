"""Generate: a text with its experts as it comes."""
