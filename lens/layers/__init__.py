"""How alike layers route, and what unrelated ones give."""
