"""Run a large table through an LLM, row by row, overnight, and be right in the morning.

`import batcher` is cheap: what it offers is loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batcher.calls.services import services
    from batcher.endpoint import Endpoint
    from batcher.engine.runner import arun, run
    from batcher.errors import (
        BatcherError,
        BudgetReached,
        ChangedError,
        EndpointsLost,
        InputError,
        Interrupted,
        OutputError,
        RunStopped,
        SettingsError,
    )
    from batcher.output.joining import merge
    from batcher.planning.forecast import Forecast, plan
    from batcher.records import Report
    from batcher.reports.status import RunStatus, status
    from batcher.reports.verification.findings import Finding
    from batcher.reports.verification.proof import Verification, verify
    from batcher.settings import Options, Settings

__version__ = "0.1.0"

__all__ = [
    "BatcherError",
    "BudgetReached",
    "ChangedError",
    "Endpoint",
    "EndpointsLost",
    "Finding",
    "Forecast",
    "InputError",
    "Interrupted",
    "Options",
    "OutputError",
    "Report",
    "RunStatus",
    "RunStopped",
    "Settings",
    "SettingsError",
    "Verification",
    "arun",
    "merge",
    "plan",
    "run",
    "services",
    "status",
    "verify",
]

_HOMES = {
    "calls.services": ("services",),
    "engine.runner": ("arun", "run"),
    "output.joining": ("merge",),
    "planning.forecast": ("Forecast", "plan"),
    "records": ("Report",),
    "reports.status": ("RunStatus", "status"),
    "reports.verification.findings": ("Finding",),
    "reports.verification.proof": ("Verification", "verify"),
    "endpoint": ("Endpoint",),
    "settings": ("Options", "Settings"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batcher' has no attribute {name!r}")
    home = _HOME_OF.get(name, "errors")
    module = importlib.import_module(f"batcher.{home}")
    # All names of a module at once: loading `batcher.status` puts the module where its function of that name belongs.
    globals().update({each: getattr(module, each) for each in _HOMES.get(home, (name,))})
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
