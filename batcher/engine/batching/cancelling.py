"""`cancel`: cancels the batches of a run at their services, and fetches what was answered.

Invariant: while a process works on the run, it alone does that, asked through the control file; else this process does,
under the lock of the journal. A batch that cannot be cancelled or fetched stays in the journal as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.answer.reading import read as as_result
from batcher.answer.shape import ReadAs, shape_of_recorded
from batcher.calls.embeddings import NO_VECTOR
from batcher.endpoint import Endpoint
from batcher.engine.batching.batches import Batches
from batcher.engine.batching.cancelled import Cancellation
from batcher.engine.batching.filling import Place
from batcher.engine.batching.harvesting import Harvester
from batcher.engine.batching.reaching import Reach, endpoints_for
from batcher.engine.by_hand import ask
from batcher.engine.process import allow_connections
from batcher.engine.progress import Progress, Tally
from batcher.errors import BatcherError, KeywordBusy, OutputError, SettingsError, outermost
from batcher.journal.entries import BY_HAND, READ_AS, Batch, BatchCounts, LastRun
from batcher.journal.locking import Work, holder_of, is_at_work
from batcher.journal.opening import open_journal, read_journal
from batcher.journal.reading import Reader
from batcher.journal.writing import Journal
from batcher.money.budget import BudgetSpent
from batcher.money.spending import Spending
from batcher.money.tariff import Tariff
from batcher.money.tokens import Estimator
from batcher.output.control import ControlFile
from batcher.output.directory import Store
from batcher.output.opening import opened
from batcher.planning.job import read_requests
from batcher.pool.account import accounts_of
from batcher.pool.member import Member
from batcher.pool.pool import Pool
from batcher.records import Completion, Result, Task
from batcher.settings import NO_WAIT, OPTIONS, Settings
from batcher.words import counted

if TYPE_CHECKING:
    from batcher.calls.caller import Callers
