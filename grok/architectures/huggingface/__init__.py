"""Families of Hugging Face transformers: their configs, tensors and arithmetic."""
