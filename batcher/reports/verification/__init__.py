"""`verify`: proves that every row of a run has the answer to its own prompt.

Invariant: journal, files and input are each checked against the others; a note names every check that was not possible.
"""
