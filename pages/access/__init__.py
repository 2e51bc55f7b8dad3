"""Who may do what on a server: whom it lets in, their roles, and what each may use."""
