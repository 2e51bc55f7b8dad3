"""Parts of the Features page: databases at hand, search, the card of one feature."""
