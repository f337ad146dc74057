"""The output directory: chunk files, and the result that is joined from them.

Invariant: a file is there whole or not at all, and what somebody changed in it is never overwritten unseen.
"""
