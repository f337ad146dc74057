"""The pool of endpoints: it decides which endpoint makes the next call, and when.

Invariant: no endpoint exceeds its limits of calls in flight or per minute; a row that waits holds no slot.
"""
