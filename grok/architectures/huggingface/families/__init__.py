"""What each family's config.json says, one file a family."""
