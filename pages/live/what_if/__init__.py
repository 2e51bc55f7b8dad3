"""What if: experts banned, forced, patched."""
