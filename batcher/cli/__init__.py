"""The command line: its parser, the file of a job, the completion, and the library in a shell, verb for verb.

Invariant: stdout carries data only; what people read goes to stderr. Exit status: 0 every row is ok, 1 finished with
rows that are not, 2 nothing was done, 3 stopped early and the same command goes on, 4 another process works on this
keyword. `__main__` adds 70, a fault in batcher.
"""

from batcher.cli.parser import help_of
from batcher.cli.verbs import VERBS, main

__all__ = ["VERBS", "help_of", "main"]
