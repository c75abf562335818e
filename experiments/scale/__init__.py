"""What a Ray cluster costs, and where it saturates."""
