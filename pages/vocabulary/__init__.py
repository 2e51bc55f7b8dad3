"""The vocabulary read-out on the pages."""
