"""Files of models: Grok-1's format, safetensors, the Hub, tokenizers; needs no JAX."""
