"""People at once on one and two web processes."""
