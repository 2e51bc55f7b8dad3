"""What takes a newcomer round: the field's words on hover, and a tour."""
