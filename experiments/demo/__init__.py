"""The sample crowd set, and the demonstration that runs on it."""
