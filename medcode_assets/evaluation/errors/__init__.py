"""Which codes an engine misses and invents, what these errors have in common, and what may mend them."""
