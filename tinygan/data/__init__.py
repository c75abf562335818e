"""Training data: regions of interest, crops and batches."""
