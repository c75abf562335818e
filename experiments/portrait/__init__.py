"""The recipe of the checkpoint that ships."""
