"""Reports on a run, also while it works.

Invariant: nothing here writes.
"""
