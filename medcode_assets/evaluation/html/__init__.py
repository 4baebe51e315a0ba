"""An evaluation as one self-contained page: its tables, sentences and pictures."""
