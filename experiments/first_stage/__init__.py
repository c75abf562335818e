"""The first stage that ships."""
