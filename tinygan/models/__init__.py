"""Networks only: generator and discriminator."""
