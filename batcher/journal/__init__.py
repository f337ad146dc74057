"""The journal: every request before it leaves and every answer before it counts, in one SQLite file.

Invariant: what was committed is never changed or removed. No other package knows SQLite.
"""
