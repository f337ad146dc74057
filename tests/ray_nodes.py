"""A cluster of Ray with several nodes on this machine: a program, because Ray opens sockets that tests may not open.

It prints the address, and then obeys lines on stdin, each of which it answers with a line of JSON: `add` a node, or
`add DIR` one whose workers find Python's modules there first; `kill N` the N-th node that it has added, `kill head`, or
`kill raylet`, the head's own node alone; `drain N`; and `workers N`, the process ids of batcher's workers at a node.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

_SHARED = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "num_gpus": 0}
# Dead nodes are noticed within two seconds, and not within fifteen.
_CHECKS = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 0,
}
_OF_HEAD = {"head": ["gcs_server", "raylet"], "raylet": ["raylet"]}


class _Nodes:
    """The head, and the nodes that were added."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - it reads the environment

        self._cluster = Cluster(
            initialize_head=True, head_node_args={**_SHARED, "num_cpus": 0, "_system_config": _CHECKS}
        )
        self.address: str = self._cluster.gcs_address
        self._head: Any = self._cluster.head_node
        self._nodes: list[Any] = []

    def add(self, modules: str = "") -> str:
        first = {"PYTHONPATH": os.pathsep.join([modules, os.environ["PYTHONPATH"]])} if modules else None
        self._nodes.append(self._cluster.add_node(num_cpus=1, env_vars=first, **_SHARED))
        return "ok"

    def kill(self, which: str) -> str:
        if which in _OF_HEAD:
            for kind in _OF_HEAD[which]:
                for each in self._head.all_processes[kind]:
                    os.kill(each.process.pid, signal.SIGKILL)
        else:
            _end(self._nodes[int(which)])
        return "ok"

    def drain(self, which: str) -> str:
        """Let a node know that its machine will be taken away, in a week: the node itself stays until then."""
        import ray  # noqa: PLC0415 - as above

        week = int((time.time() + 7 * 86400) * 1000)
        client = ray._raylet.GcsClient(address=self.address)
        is_accepted, why = client.drain_node(self._nodes[int(which)].node_id, 2, "it has to go", week)
        return "ok" if is_accepted else why

    def workers(self, which: str) -> list[int]:
        return [*_workers_of(self._nodes[int(which)])]

    def end(self) -> None:
        for node in [*self._nodes, self._head]:
            _end(node)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="rn", ignore_cleanup_errors=True) as directory:
        os.environ["RAY_TMPDIR"] = directory
        Path(directory, "ray").mkdir()
        nodes = _Nodes()
        try:
            print(nodes.address, flush=True)  # noqa: T201 - to the test
            for line in sys.stdin:
                order, *arguments = line.split()
                print(json.dumps(getattr(nodes, order)(*arguments)), flush=True)  # noqa: T201 - the same
        finally:
            nodes.end()


def _end(node: Any) -> None:
    """End a node as a machine that loses its power does."""
    if node.any_processes_alive():
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def _workers_of(node: Any) -> Iterator[int]:
    """Yield the processes of batcher's workers at a node: children of its raylet."""
    if not node.any_processes_alive():
        return
    raylet = node.all_processes["raylet"][0].process.pid
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            name = path.joinpath("cmdline").read_bytes()
            if parent == raylet and b"_Actor" in name:
                yield int(path.name)


if __name__ == "__main__":
    main()
