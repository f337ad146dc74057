"""The model to serve, as the command line names it.

Invariant: what these options say is checked before anything heavy is imported; paths are directories of this machine.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from batcher.errors import SettingsError

_NEEDS = ("torch", "transformers", "peft")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@dataclass(frozen=True)
class ModelOptions:
    """Which model to serve, and on what.

    Attributes:
        base_model: a directory in Hugging Face format.
        lora_model: a directory that peft has saved.
        tokenizer_path: a directory; None: the LoRA's if it has a tokenizer, else the base model's.
        gpus: numbers of GPUs, separated by commas; None: the first one.
        only_cpu: use no GPU.
        load_in_8bit: quantise the base model's weights to 8 bits while loading.

    Raises:
        SettingsError: an option is wrong, or a library is missing.
    """

    base_model: str | None
    lora_model: str | None = None
    tokenizer_path: str | None = None
    gpus: str | None = None
    only_cpu: bool = False
    load_in_8bit: bool = False

    def __post_init__(self) -> None:
        if not self.base_model:
            raise SettingsError("--backend hf needs --base-model: the directory of a model in Hugging Face format")
        _check_directory("--base-model", self.base_model, ("config.json",), "a model in Hugging Face format")
        if self.lora_model is not None:
            _check_directory("--lora-model", self.lora_model, ("adapter_config.json",), "a LoRA that peft has saved")
        if self.tokenizer_path is not None:
            _check_directory("--tokenizer-path", self.tokenizer_path, _TOKENIZERS, "a tokenizer")
        elif not _holds(self.tokenizer, _TOKENIZERS):
            raise SettingsError(f"--base-model: {self.base_model!r} holds no tokenizer: name one with --tokenizer-path")
        if self.only_cpu and self.gpus is not None:
            raise SettingsError("--only-cpu and --gpus exclude each other: leave one of them out")
        _ = self.gpu_numbers
        missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            raise SettingsError(f'--backend hf needs {", ".join(missing)}: pip install "batcher-llm[hf]"')
        if self.load_in_8bit and importlib.util.find_spec("bitsandbytes") is None:
            raise SettingsError('--load-in-8bit needs bitsandbytes: pip install "batcher-llm[hf]"')

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """The GPUs that `gpus` names; empty if it names none."""
        if self.gpus is None:
            return ()
        parts = [part.strip() for part in self.gpus.split(",")]
        if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
            raise SettingsError(f"--gpus must be different numbers of GPUs with commas, such as 0,1, not {self.gpus!r}")
        return tuple(map(int, parts))

    @property
    def tokenizer(self) -> Path:
        """The directory of the tokenizer."""
        if self.tokenizer_path is not None:
            return Path(self.tokenizer_path)
        lora = Path(self.lora_model) if self.lora_model is not None else None
        if lora is not None and _holds(lora, _TOKENIZERS):
            return lora
        return Path(self.base_model or "")

    @property
    def name(self) -> str:
        """The name under which the model is served: that of its directory, or of the LoRA's."""
        return Path(self.lora_model or self.base_model or "").resolve().name

    def prepare(self) -> None:
        """Show the libraries, before they are imported, the GPUs that may be used, and no network."""
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if self.only_cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        elif self.gpu_numbers:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpu_numbers))


def _check_directory(option: str, given: str, needs: tuple[str, ...], what: str) -> None:
    path = Path(given)
    if not path.exists():
        raise SettingsError(
            f"{option}: there is no directory {given!r}. Nothing is downloaded: give the path of a directory"
        )
    if not path.is_dir():
        raise SettingsError(f"{option}: {given!r} is a file: give the directory that holds {what}")
    if not _holds(path, needs):
        raise SettingsError(f"{option}: {given!r} does not hold {what}: there is no {' or '.join(needs)} in it")


def _holds(path: Path, names: tuple[str, ...]) -> bool:
    return any((path / name).is_file() for name in names)
