"""Doctors' answers made into hierarchical lists: by cue words without a network, or by a language model."""
