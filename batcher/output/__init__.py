"""The output directory: chunk files, and the result that is joined from them.

Invariant: a file is written whole or not at all, and a file changed by hand is never overwritten without a copy.
"""
