"""Money: what a request may cost before it leaves, and what it did cost.

Invariant: amounts are whole nano-dollars, and a bound is never below the bill.
"""
