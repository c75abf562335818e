"""Training stages, one per file."""
