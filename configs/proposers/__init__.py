"""Presets of first stages."""
