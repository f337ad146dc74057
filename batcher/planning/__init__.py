"""Finds out what a run has to do, before anything is sent.

Invariant: planning sends no request, and leaves the journal unchanged until it has succeeded.
"""
