"""Kinds of dictionaries: their parameters, activation functions, normalisation and files."""
