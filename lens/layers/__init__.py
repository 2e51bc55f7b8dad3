"""Similarity of layers, beside what unrelated ones give."""
