"""Streaming of models with many small experts: those that are needed, and no others."""
