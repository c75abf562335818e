"""Training of first stages: the same run folder, loop, config and resume as the second stage's."""
