"""Training stages, one a file."""
