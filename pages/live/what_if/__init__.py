"""The mode "What if": experts banned, forced, patched."""
