"""A run at work: rows go to the pool, results go to the journal and to the files.

Invariant: a row is counted, written or reported only when the journal has its result.
"""
