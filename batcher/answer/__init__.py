"""Answers: from a model's completion to a row's result.

Invariant: an answer is judged only by its completion, so that judging it again always gives the same result.
"""
