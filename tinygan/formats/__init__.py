"""What lies on disk: one module per format."""
