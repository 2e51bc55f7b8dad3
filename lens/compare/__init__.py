"""Two router sets side by side: `python -m lens.compare`."""
