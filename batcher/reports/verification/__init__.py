"""`verify`: the proof that every row of a run is right.

Invariant: journal, files and input are each checked against the others; what could not be checked is said.
"""
