"""`batcher review`: a local page to look at a run's rows, to correct them, and to label its sample."""
