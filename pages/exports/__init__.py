"""What people take with them: the report of all that the pages show."""
