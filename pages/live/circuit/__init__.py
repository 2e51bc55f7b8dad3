"""The circuit of a choice: what a router's logit is made of, back to the words."""
