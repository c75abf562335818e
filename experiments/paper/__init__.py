"""The paper's chain, first stage and second."""
