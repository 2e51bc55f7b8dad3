"""Dictionaries rounded for a repository, with a card that is written from measurements alone."""
