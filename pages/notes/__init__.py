"""Pins, names and notes on experts, kept for the person."""
