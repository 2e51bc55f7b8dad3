"""Figures of routed texts."""
