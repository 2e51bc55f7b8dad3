"""What features say of labels that we own: domains, kinds of tokens, experts."""
