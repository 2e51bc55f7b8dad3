"""Dictionaries and graphs as other tools write and read them: one file a format."""
