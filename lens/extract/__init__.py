"""Routers from checkpoints of Grok-1's format, safetensors files and the Hub."""

from lens.extract.grok1 import extract_routers
from lens.extract.safetensors import extract_safetensors

__all__ = [
    "extract_routers",
    "extract_safetensors",
]
