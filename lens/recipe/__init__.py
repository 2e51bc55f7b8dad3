"""How a value was made: the calls behind it, and the program that makes it again."""
