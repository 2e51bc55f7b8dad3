"""Chance: draws, p-values, permutation tests."""
