"""Commands of first stages, one file per command."""
