"""Notebooks to read and to run, and what they share."""
