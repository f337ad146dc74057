"""A cluster of Ray with several nodes on this machine: a program, because Ray opens sockets that tests may not open.

It prints the address, and then obeys lines on stdin: `add` a node, `kill N` the N-th node that it has added, `drain N`,
and `workers`, which prints the process ids of batcher's workers at each node, in JSON. It answers each with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def main() -> None:
    nodes: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="rn") as directory:
        os.environ["RAY_TMPDIR"] = directory
        Path(directory, "ray").mkdir()
        import ray  # noqa: PLC0415 - it reads the environment
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        shared = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "num_gpus": 0}
        # Dead nodes are noticed within two seconds, and not within fifteen.
        checks = {
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 3,
            "health_check_initial_delay_ms": 0,
        }
        head = {**shared, "num_cpus": 0, "_system_config": checks}
        cluster = Cluster(initialize_head=True, head_node_args=head)

        def obey(order: str, *places: str) -> object:
            if order == "add":
                nodes.append(cluster.add_node(num_cpus=1, **shared))
                return nodes[-1].node_id
            node = nodes[int(places[0])]
            if order == "kill":
                if node.any_processes_alive():
                    cluster.remove_node(node, allow_graceful=False)
            elif order == "drain":
                # As a machine that will be taken away, in a week: the node itself stays until then.
                week = int((time.time() + 7 * 86400) * 1000)
                client = ray._raylet.GcsClient(address=cluster.gcs_address)
                is_accepted, why = client.drain_node(node.node_id, 2, "it has to go", week)
                return why if not is_accepted else "ok"
            elif order == "workers":
                return [*_workers_of(node)]
            return "ok"

        try:
            print(cluster.gcs_address, flush=True)  # noqa: T201 - to the test
            for line in sys.stdin:
                print(json.dumps(obey(*line.split())), flush=True)  # noqa: T201 - the same
        finally:
            cluster.shutdown()


def _workers_of(node: Any) -> Iterator[int]:
    """Yield the processes of batcher's workers at a node: children of its raylet."""
    raylet = node.all_processes["raylet"][0].process.pid
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            name = path.joinpath("cmdline").read_bytes()
            if parent == raylet and b"_Actor" in name:
                yield int(path.name)


if __name__ == "__main__":
    main()
