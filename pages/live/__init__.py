"""The live page: one folder a mode, and what they share."""
