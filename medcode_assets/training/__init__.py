"""Tokens to an adapter: tokenization, collation, the trainer's wiring, pretraining of the embedded model."""
