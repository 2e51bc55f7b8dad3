"""Checkpoints of Grok-1's widths, and a pass over one."""
