"""The journal: every request before it leaves and every answer before it counts, in one SQLite file.

Invariant: committed answers are never changed or removed; a row may only be pointed at another answer. No other package
knows SQLite.

`opening` gives a `Reader`, an `Evidence` (for `verify`), a `Planner` (a copy to rehearse in) or the `Journal` of a run.
In `Reader < Planner < Journal` each extends the one before it. A `Reader` cannot write.
"""
