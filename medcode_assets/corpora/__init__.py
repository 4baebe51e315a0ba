"""Every source of text but MIMIC itself: the synthetic MIMIC of the demo, and the text of the embedded model."""
