"""The local page: read, filter, label and correct the rows of a run.

Invariant: it listens where the user said, answers only who knows the token, and writes only through `deciding`.
"""
