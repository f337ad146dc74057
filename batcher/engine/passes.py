"""The passes of a run with batches: windows over the table while batches come back, and a last one.

Invariant: a pass asks only rows that are not out; a file is written as soon as each of its rows has its result.
"""
