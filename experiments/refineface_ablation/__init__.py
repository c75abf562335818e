"""RefineFace's tables in small."""
