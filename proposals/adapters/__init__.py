"""Detectors people already have, as proposers."""
