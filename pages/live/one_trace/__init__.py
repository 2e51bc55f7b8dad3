"""Inspect: one routed text."""
