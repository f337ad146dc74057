"""Run a large table through an LLM, row by row, overnight, and be right in the morning.

`import batcher` is cheap: each name is loaded at first use. This module offers the names that a script needs. Their
options, results and errors are documented in `batcher.settings.Settings`, `batcher.errors`,
`batcher.planning.forecast.Forecast`, `batcher.reports.status.RunStatus`, `batcher.reports.verification` and
`batcher.reports.quality`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from batcher.version import __version__ as __version__

if TYPE_CHECKING:
    from batcher.calls.services import services
    from batcher.endpoint import Endpoint
    from batcher.engine.batching.cancelling import cancel
    from batcher.engine.by_hand import limit, pause, resume
    from batcher.engine.runner import arun, run
    from batcher.engine.sampling import sample
    from batcher.errors import (
        BatcherError,
        InputError,
        Interrupted,
        OutputError,
        RunStopped,
        SettingsError,
    )
    from batcher.output.joining import merge
    from batcher.output.report import Report
    from batcher.planning.forecast import plan
    from batcher.rehearsal.rehearse import rehearse
    from batcher.reports.quality.compare import compare
    from batcher.reports.quality.estimate import estimate
    from batcher.reports.status import status
    from batcher.reports.verification.verify import verify
    from batcher.reports.whole.report import report
    from batcher.reviewing.review import review

__all__ = [
    "BatcherError",
    "Endpoint",
    "InputError",
    "Interrupted",
    "OutputError",
    "Report",
    "RunStopped",
    "SettingsError",
    "arun",
    "cancel",
    "compare",
    "estimate",
    "limit",
    "merge",
    "pause",
    "plan",
    "rehearse",
    "report",
    "resume",
    "review",
    "run",
    "sample",
    "services",
    "status",
    "verify",
]

_HOMES = {
    "Endpoint": "endpoint",
    "Report": "output.report",
    "arun": "engine.runner",
    "cancel": "engine.batching.cancelling",
    "compare": "reports.quality.compare",
    "estimate": "reports.quality.estimate",
    "limit": "engine.by_hand",
    "merge": "output.joining",
    "pause": "engine.by_hand",
    "plan": "planning.forecast",
    "rehearse": "rehearsal.rehearse",
    "report": "reports.whole.report",
    "resume": "engine.by_hand",
    "review": "reviewing.review",
    "run": "engine.runner",
    "sample": "engine.sampling",
    "services": "calls.services",
    "status": "reports.status",
    "verify": "reports.verification.verify",
}
"""The module of each name; the others are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batcher' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"batcher.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
