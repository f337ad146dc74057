"""The files for clusters in examples/: shells and Kubernetes can read them, and batcher knows the options in them.

The scripts for Slurm are run beside stand-ins of Slurm, Ray and batcher, which write down how they were called.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import ROOT

from batcher.cli.reading import parsed

SCRIPTS = [ROOT / "examples" / name for name in ("slurm-ray.sh", "slurm-shards.sh")]
JOB = ROOT / "examples" / "kuberay.yaml"


def run_in(text: str) -> list[str]:
    """Return the arguments of the one `batcher run` in a text, with numbers in the place of variables."""
    (found,) = re.findall(r"^\s*(?:exec )?batcher (run .+)$", text.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(re.sub(r"\$\w+", "1", found).removesuffix("&"))


# What each program does besides writing down its arguments. `srun` does what is behind its options, and `batcher` waits
# until Ray has been started on all nodes.
STAND_INS = {
    "scontrol": "printf 'n1\\nn2\\nn3\\n'",
    "hostname": "echo 10.0.0.1 fe80::1",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": '[[ $1 == status ]] || exec sleep 600; until grep -q "^ray start --head" "$CALLS"; do sleep 0.02; done',
    "batcher": 'until (($(grep -c "^ray start" "$CALLS") == STARTS_OF_RAY)); do sleep 0.02; done; trap "exit 3" TERM;'
    ' echo at work; if [[ $IS_LONG ]]; then sleep 600 & wait; fi; exit "$STATUS"',
}


class Slurm:
    """A node on which Slurm runs scripts, with three nodes in the job."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls.txt"
        programs = folder / "bin"
        programs.mkdir()
        for name, does in STAND_INS.items():
            note = f'echo "{name} $* key=${{API_KEY:-none}} cpus=${{SRUN_CPUS_PER_TASK:-none}}" >> "$CALLS"'
            (programs / name).write_text(f"#!/bin/bash\n{note}\n{does}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "API_KEY": "sk-of-the-user",
            "CALLS": str(self.calls),
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_COUNT": "1",  # this shard alone was submitted again
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, script: Path, *, nodes: int = 3, starts: int = 2, status: int = 0, is_long: bool = False
    ) -> subprocess.Popen[str]:
        """Run a script; `starts` is how often it is to start Ray."""
        own = {"SLURM_NNODES": str(nodes), "STARTS_OF_RAY": str(starts), "STATUS": str(status)}
        own["IS_LONG"] = "yes" if is_long else ""
        job = subprocess.Popen(
            ["/bin/bash", str(script)],
            env={**self._environment, **own},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(job)
        return job

    def called(self, program: str) -> list[str]:
        lines = self.calls.read_text(encoding="utf-8").splitlines()
        return sorted(line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} "))

    def close(self) -> None:
        """End what a job has left, as Slurm does."""
        for job in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.communicate()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    made = Slurm(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_for_slurm_can_be_read_and_its_options_exist(script: Path) -> None:
    subprocess.run(["/bin/bash", "-n", str(script)], check=True)
    assert parsed(run_in(script.read_text(encoding="utf-8"))).verb == "run"


def test_the_job_for_kubernetes_can_be_read_and_keeps_the_key_on_the_head() -> None:
    yaml = pytest.importorskip("yaml", reason="comes with Ray")
    job = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert parsed(run_in(job["spec"]["entrypoint"])).ray == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert "API_KEY" not in str(workers)


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_of_slurm_starts_ray_on_all_nodes_without_the_key_and_ends_as_the_run_does(
    slurm: Slurm, status: int
) -> None:
    assert slurm.start(SCRIPTS[0], status=status).wait() == status
    others, head = (line for line in slurm.called("ray") if not line.startswith("status"))
    assert others == "start --address=10.0.0.1:6379 --num-cpus=8 --block key=none cpus=8"
    assert head == "start --head --node-ip-address=10.0.0.1 --port=6379 --num-cpus=7 --block key=none cpus=8"
    places = [line for line in slurm.called("srun") if " ray " in line]
    assert [line.split(" ray ")[0] for line in places] == [
        "--nodes=1 --ntasks=1 --nodelist=n1",
        "--nodes=2 --ntasks=2 --exclude=n1",
    ]
    (run,) = slurm.called("batcher")
    assert "--ray 10.0.0.1:6379 --ray-workers 23 " in run
    assert "key=sk-of-the-user" in run


def test_a_job_of_one_node_asks_for_no_other_one(slurm: Slurm) -> None:
    assert slurm.start(SCRIPTS[0], nodes=1, starts=1).wait() == 0
    assert not any("--exclude" in line for line in slurm.called("srun"))
    (run,) = slurm.called("batcher")
    assert "--ray-workers 7 " in run


@pytest.mark.parametrize(("script", "starts"), [(SCRIPTS[0], 2), (SCRIPTS[1], 0)], ids=["ray", "shards"])
def test_a_signal_before_the_end_of_the_time_reaches_the_run(slurm: Slurm, script: Path, starts: int) -> None:
    job = slurm.start(script, starts=starts, is_long=True)
    assert job.stdout
    while "at work" not in job.stdout.readline():
        assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 3


def test_a_shard_that_is_submitted_alone_is_the_same_shard(slurm: Slurm) -> None:
    assert slurm.start(SCRIPTS[1], starts=0).wait() == 0
    (run,) = slurm.called("batcher")
    assert " --shard 3/8 " in run
