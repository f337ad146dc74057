"""Numbers about labels: samples, estimates, agreement, drift. It reads nothing, and knows no files."""
