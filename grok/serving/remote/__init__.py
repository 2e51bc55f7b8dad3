"""A shared model behind HTTP: its server, and the client that other processes are."""
