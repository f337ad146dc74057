"""`estimate` and `compare`: how good the answers of one run or of two are, by the rows that people have labelled.

Invariant: no interval is given that the way in which the rows were chosen does not justify.
"""
