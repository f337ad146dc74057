"""Calls that processes elsewhere make: the window, the limits and the journal stay in one process.

Invariant: a call is out at one worker at a time once it has left; whatever becomes of a worker, each of its calls ends
exactly once, and none of them tells anything about a row or a service that is the worker's own trouble.
"""
