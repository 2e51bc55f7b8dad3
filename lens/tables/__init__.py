"""Tables of the numbers that figures show, as CSV text."""
