"""Models on the Hugging Face Hub: commits, files, byte ranges."""
