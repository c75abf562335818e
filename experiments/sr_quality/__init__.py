"""How faithful super-resolution is on faces that it never saw, and what it is worth to the judge."""
