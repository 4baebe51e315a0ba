"""How good an engine's codes are: calibration, one threshold, metrics with intervals, errors, report and gates."""
