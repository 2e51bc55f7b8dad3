"""Two routed texts, or one with and without a change, compared."""
