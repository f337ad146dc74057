"""`report`: what happened in a run, as one page to look at.

Invariant: the facts come from the journal alone, but for the cells of a few rows; the page is made from the facts.
"""
