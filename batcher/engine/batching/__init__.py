"""Batches: rows that are asked through a service's batch API, thousands at a time.

Invariant: the lines of a batch are in the journal before its file leaves, and each of them gets its end there.
"""
