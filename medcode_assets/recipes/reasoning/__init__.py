"""Recipe `reasoning`: a clinical narrative to one billing code with the reasoning that leads there, in three stages."""
