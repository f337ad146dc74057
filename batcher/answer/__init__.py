"""Answers: what a model's completion says of its row.

Invariant: an answer is judged by its own text alone, so that judging it again, years later, ends the same way.
"""
