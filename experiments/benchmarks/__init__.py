"""How fast the command lines are."""
