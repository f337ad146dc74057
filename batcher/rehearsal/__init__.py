"""A rehearsal: the user's own job against the local server, with faults and kills, until `verify` has checked it.

Invariant: no request leaves this machine, no API key of the user's is used, and every file is in the rehearsal's own
directory.
"""
