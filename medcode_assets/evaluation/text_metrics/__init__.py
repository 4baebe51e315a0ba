"""How good answers in words are: overlap with references, likeness by an encoder, choices, perplexity."""
