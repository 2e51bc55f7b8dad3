"""What a dictionary is worth, on text that it did not see, beside what needs no dictionary."""
