"""Forecasts over frames: the field's long frame in, distributions out; it knows no log, no policy and no order."""
