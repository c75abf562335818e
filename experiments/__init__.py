"""Experiments and demonstrations: they may import everything, nothing imports them."""
