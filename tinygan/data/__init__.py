"""Training data: regions of interest, the patches cut from them, and batches."""
