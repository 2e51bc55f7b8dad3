"""Two router sets compared."""
