"""Measured claims: each module's `main` prints a table; ratios come from one run."""
