"""The pool of endpoints: who makes the next call, and when.

Invariant: no endpoint has more calls in flight, or more in a minute, than it may; a row that waits holds no slot.
"""
