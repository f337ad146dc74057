"""Batches of a service's batch API: filled from the table, submitted, looked at, and harvested.

Invariant: the journal has a batch and the intents of all its lines before its file leaves.
"""
