"""How good an engine's codes are: predictions, one threshold, metrics, report and plots."""
