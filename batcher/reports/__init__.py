"""What can be read of a run, also while it works.

Invariant: nothing here writes.
"""
