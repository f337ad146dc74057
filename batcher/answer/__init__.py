"""Answers: from a model's completion to a row's result.

Invariant: an answer is judged only by its completion and by the labels or the schema of the run, so that judging it
again gives the same result.
"""
