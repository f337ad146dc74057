"""Money: the bound on a request's cost before it leaves, and its cost afterwards.

Invariant: amounts are whole nano-dollars, and a bound is never below the bill.
"""
