"""How fast the evaluator is."""
