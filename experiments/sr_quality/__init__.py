"""How faithful super-resolution is on faces it never saw."""
