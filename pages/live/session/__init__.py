"""What a visitor's session keeps: models, prompts, traces."""
