"""Code systems and the vocabulary that a bundle predicts from."""
