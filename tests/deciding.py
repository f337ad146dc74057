"""Decides about rows of the run `k` in `output` as a page does, and prints each decision that was acknowledged.

Its arguments: the name of the person, how many decisions to make, and the number of rows.
"""

import asyncio
import random
import sys
from pathlib import Path

from batcher.errors import BatcherError
from batcher.journal.opening import read_journal
from batcher.output.directory import Store
from batcher.records import Result, Status
from batcher.reviewing.deciding import Decisions

who, count, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = Store(Path("output"), "k")
page = Decisions(store, who)
chance = random.Random(who)
made = 0
while made < count:
    position = chance.randrange(rows)
    try:
        with read_journal(store.journal_path) as journal:
            seen = journal.states(position, position + 1)[0].result
        if seen is None:
            continue
        answer = Result(Status.OK, f"{who} {made}", "")
        done = asyncio.run(page.correct(position, seen, answer, f"decision {made}"))
    except BatcherError:
        continue
    sys.stdout.write(f"{who} {made} {position} {done.result} {done.via}\n")
    sys.stdout.flush()
    made += 1
