"""Figures of a router set."""
