"""The files for clusters in examples/: shells and Kubernetes can read them, and batcher knows the options in them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from programs import ROOT

from batcher.cli.reading import parsed

SCRIPTS = [ROOT / "examples" / name for name in ("slurm-ray.sh", "slurm-shards.sh")]
JOB = ROOT / "examples" / "kuberay.yaml"


def run_in(text: str) -> list[str]:
    """Return the arguments of the one `batcher run` in a text, with numbers in the place of variables."""
    (found,) = re.findall(r"^\s*batcher (run .+)$", text.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(re.sub(r"\$\w+", "1", found).removesuffix("&"))


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
