"""The journal: every request before it leaves and every answer before it counts, in one SQLite file.

Invariant: what was committed is never changed or removed; a row's result is only ever pointed at another answer. No
other package knows SQLite.

`opening` gives a `Reader`, an `Evidence` (for `verify`), a `Planner` (a copy to rehearse in) or the `Journal` of a run;
each can do what the one before it in `Reader < Planner < Journal` can, and what only reads cannot write.
"""
