"""What routers cost from a Hub, counted by a server of its kind."""
