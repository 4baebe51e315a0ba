"""Synthetic training data for recipe `reasoning`: asked of a language model through LiteLLM, or made from templates."""
