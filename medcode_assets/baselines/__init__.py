"""Models without a neural network, which a fine-tuned one must beat. The graph's declarations are elsewhere."""
