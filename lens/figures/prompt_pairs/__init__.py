"""Figures of two texts, or of a text and the same with a change."""
