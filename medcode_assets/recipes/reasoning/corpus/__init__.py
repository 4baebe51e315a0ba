"""The corpus of recipe `reasoning`: from its sources to clean lines of the three stages, in splits and in scope."""
