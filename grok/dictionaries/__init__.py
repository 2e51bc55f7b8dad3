"""Learned sparse features: dictionaries of what routers read and experts write."""
