"""What a checkpoint says of its routing: names of routers, settings, and their identity."""
