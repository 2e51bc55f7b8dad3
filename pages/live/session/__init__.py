"""Models, prompts and traces of a visitor's session."""
