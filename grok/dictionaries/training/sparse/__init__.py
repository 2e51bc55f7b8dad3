"""Steps that touch only active features, for processors."""
