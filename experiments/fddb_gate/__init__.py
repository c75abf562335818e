"""How well the FDDB evaluation agrees with the official one, and what the unknown image sizes do to it."""
