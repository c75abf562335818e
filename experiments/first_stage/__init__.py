"""The first stages that ship."""
