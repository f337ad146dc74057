"""How good the answers are: figures with intervals, from counts and hand labels.

Invariant: nothing here reads or writes anything; numbers go in, frozen objects come out. It needs numpy alone, and what
is drawn is drawn from a seed, so that equal input gives equal figures.
"""
