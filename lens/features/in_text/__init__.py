"""Features in one text: which are active there, what changes when one is turned up."""
