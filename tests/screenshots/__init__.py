"""Pictures of every page and mode, to be looked at: `python -m tests.screenshots OUT`."""
