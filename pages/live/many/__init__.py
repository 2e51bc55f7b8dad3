"""Many prompts: runs in the background, labels, words."""
