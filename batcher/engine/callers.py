"""Makes what makes a run's calls: callers in this process, or in workers elsewhere (`--ray`).

Invariant: nothing is loaded, opened or started that the run does not need; the run's stack closes what is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import TYPE_CHECKING

from batcher.calls.caller import Streaming
from batcher.calls.workers.callers import WorkerCallers
from batcher.calls.workers.crew import Crew
from batcher.calls.workers.setup import Setup
from batcher.chat_model import keys_in
from batcher.endpoint import OFFLINE, by_account
from batcher.engine.process import allow_connections
from batcher.engine.progress import Progress
from batcher.hiding import secrets_among
from batcher.planning.job import Job
from batcher.server.serve import embedded

if TYPE_CHECKING:
    from batcher.calls.caller import Callers


async def made_for(job: Job, stack: contextlib.AsyncExitStack, progress: Progress) -> Callers:
    """Make the callers of a run's endpoints.

    Raises:
        SettingsError: the system allows too few connections; or there are no workers, or they cannot make the calls.
    """
    settings = job.settings
    # Loading LangChain and starting the embedded server take a second each.
    offline_url = None
    if any(endpoint.base_url == OFFLINE for endpoint in job.endpoints):
        server = await asyncio.to_thread(stack.enter_context, embedded())
        offline_url = server.base_url
    most_bytes = int(settings.max_response_mb * 1e6)
    streaming = None if settings.idle_s is None else Streaming(settings.idle_s, settings.longest_s)
    connections = allow_connections(job.endpoints, are_distant=settings.ray is not None)
    if settings.ray is not None:
        setup = Setup(job.endpoints, settings.params, offline_url, most_bytes, streaming, scores=job.scores)
        return await _of_workers(job, setup, progress)
    module = await asyncio.to_thread(importlib.import_module, "batcher.calls.factory")
    made: Callers = module.ChatCallers(
        settings.params, offline_url, most_bytes, connections, streaming, scores=job.scores
    )
    return made


async def _of_workers(job: Job, setup: Setup, progress: Progress) -> Callers:
    """Start workers, and make the callers over them."""
    module = await asyncio.to_thread(importlib.import_module, "batcher.calls.workers.ray_cluster")
    calls = sum(first.max_concurrency for first, *_ in by_account(job.endpoints))
    keys = secrets_among(key for each in job.endpoints for key in (each.api_key or "", *keys_in(each.headers)))
    cluster = module.RayCluster(job.settings.ray, job.settings.ray_workers, calls, keys, progress.say)
    crew = Crew(cluster, progress.say)
    try:
        await crew.start(setup)
    except BaseException:
        await crew.close()
        raise
    return WorkerCallers(crew, setup)
