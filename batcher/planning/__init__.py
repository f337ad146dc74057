"""What a run has to do, found out before anything is sent.

Invariant: planning calls nobody, and until it has succeeded the journal says what it said before.
"""
