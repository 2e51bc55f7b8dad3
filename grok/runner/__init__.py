"""A loaded model: prompt in, routing out."""
