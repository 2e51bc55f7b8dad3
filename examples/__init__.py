"""Short scripts that start from nothing: `python -m examples.NAME`."""
