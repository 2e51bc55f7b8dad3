"""Routing analysis: arrays in, arrays out; importable without streamlit and without jax."""
