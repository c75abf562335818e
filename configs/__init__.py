"""Presets: YAML files that override the defaults of training and of first stages."""
