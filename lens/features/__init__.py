"""What learned features say of routes: accounts, flips and graphs, as rows and as JSON."""
