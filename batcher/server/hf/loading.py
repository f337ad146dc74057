"""Loads a model, its LoRA and its tokenizer from directories of this machine.

Invariant: what is returned has been tried with a first step; what does not fit together is an error that names the
option, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from batcher.errors import SettingsError, in_words
from batcher.server.hf.cache import can_join, plain_cache
from batcher.server.hf.options import ModelOptions

# Ends of a turn. A model that was tuned for chats may write them though its configuration names another end.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|eom_id|>", "</s>")
# What the libraries raise for files that they cannot read or that do not fit.
_FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)
_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "do_sample")


@dataclass(frozen=True)
class Model:
    """A model that can answer.

    Attributes:
        name: under which it is served.
        network: the model itself, in evaluation mode; a LoRA is a part of it.
        tokenizer: its tokenizer.
        device: on which its inputs must be.
        context: the longest prompt with its answer, in tokens; None: no limit is known.
        ends: tokens that end an answer.
        defaults: what the model's `generation_config.json` says about sampling.
        takes: the parameters of the model, whose names differ between releases and models.
        can_join: rows of its cache can be put together, so that requests join and leave a running batch.
        in_words: what is served, and on what.
    """

    name: str
    network: Any
    tokenizer: Any
    device: torch.device
    context: int | None
    ends: frozenset[int]
    defaults: dict[str, Any]
    takes: frozenset[str]
    can_join: bool
    in_words: str

    def new_cache(self) -> Any:
        """Make an empty cache for a prompt."""
        return plain_cache() if self.can_join else transformers.DynamicCache(config=self.network.config)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Return the logits after the last token of each row; the cache takes up the tokens.

        Args:
            ids: new tokens of each row, padded on the left.
            mask: 1 for every token in the cache and in `ids`, 0 for padding.
            cache: of the tokens before.
        """
        places = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        more: dict[str, Any] = {"cache" if "cache" in self.takes else "past_key_values": cache}
        if "position_ids" in self.takes:
            more["position_ids"] = places
        if "logits_to_keep" in self.takes:
            more["logits_to_keep"] = 1
        found = self.network(input_ids=ids, attention_mask=mask, use_cache=True, return_dict=True, **more)
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the last hidden layer for rows that are padded on the right."""
        body = self.network.base_model
        found = body(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True)
        last: torch.Tensor = found.last_hidden_state
        return last

    @property
    def width(self) -> int:
        """The length of an embedding: that of the hidden layers."""
        return int(self.network.config.get_text_config().hidden_size)


def load(options: ModelOptions) -> Model:
    """Load the model that the options name.

    Raises:
        SettingsError: the files cannot be read, do not fit together, or there is no such device.
    """
    options.prepare()
    _hush()
    with warnings.catch_warnings(action="ignore"):  # about each other, or about what is checked here
        return _load(options)


def _load(options: ModelOptions) -> Model:
    device = _device(options)
    base = str(options.base_model)
    with _named("--base-model", base):
        config = AutoConfig.from_pretrained(base, local_files_only=True)
    with _named("--tokenizer-path", str(options.tokenizer)):
        tokenizer = AutoTokenizer.from_pretrained(str(options.tokenizer), local_files_only=True, config=config)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:
            raise ValueError("its vocabulary is empty")
    network = _network(options, device)
    _fit_vocabulary(network, tokenizer, options)
    if options.lora_model is not None:
        network = _with_lora(network, options)
    network.eval().requires_grad_(requires_grad=False)
    given = _generation_config(Path(base))
    network.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=None)
    inputs_on = network.get_input_embeddings().weight.device
    model = Model(
        name=options.name,
        network=network,
        tokenizer=tokenizer,
        device=inputs_on,
        context=getattr(config.get_text_config(), "max_position_embeddings", None),
        ends=_ends(tokenizer, config, given),
        defaults={name: given[name] for name in _DEFAULTS if given.get(name) is not None},
        takes=frozenset(inspect.signature(network.forward).parameters),
        can_join=False,
        in_words=_in_words(options, network, inputs_on),
    )
    return _tried(model)


def _hush() -> None:
    """Keep progress bars and remarks of the libraries off stderr: what matters is said by errors."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("bitsandbytes", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _device(options: ModelOptions) -> torch.device:
    if options.only_cpu:
        return torch.device("cpu")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = options.gpu_numbers
    if there == 0 and not wanted and torch.backends.mps.is_available():
        return torch.device("mps")
    if there < max(len(wanted), 1):
        option = f"--gpus {options.gpus}: " if wanted else ""
        found = "there is no GPU that torch can use" if there == 0 else f"torch can use {there} of these GPUs"
        raise SettingsError(
            f"{option}{found} (torch {torch.__version__}). --only-cpu runs the model on the processor, which is slow"
        )
    return torch.device("cuda:0")  # the first of those that prepare() has left visible


@contextlib.contextmanager
def _named(option: str, path: str) -> Iterator[None]:
    """Turn an error of a library into one that names the option."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingsError(f"{option}: {path!r} does not fit into the memory of the device") from error
    except _FAULTS as error:
        raise SettingsError(f"{option}: {path!r} cannot be loaded: {in_words(error)}") from error


def _network(options: ModelOptions, device: torch.device) -> Any:
    path = str(options.base_model)
    how: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    # The processor computes in 32 bits: half precision is slow there, and 16 bits lose more than they save.
    how["dtype"] = torch.float32 if device.type == "cpu" else "auto"
    if options.load_in_8bit:
        how["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
    if options.load_in_8bit or len(options.gpu_numbers) > 1:
        how["device_map"] = "auto" if len(options.gpu_numbers) > 1 else {"": device}
    with _named("--base-model", path):
        network, said = AutoModelForCausalLM.from_pretrained(path, **how)
        if missing := sorted(said.get("missing_keys", ())):
            raise SettingsError(
                f"--base-model: {path!r} lacks weights: {len(missing)} tensors, the first is {missing[0]}. Are they"
                " those of another model?"
            )
        return network if "device_map" in how else network.to(device)


def _fit_vocabulary(network: Any, tokenizer: Any, options: ModelOptions) -> None:
    """Make room for the tokens that a LoRA has added; without one, more tokens than the model has are an error."""
    there, wanted = network.get_input_embeddings().weight.shape[0], len(tokenizer)
    if wanted <= there:
        return
    if options.lora_model is None:
        raise SettingsError(
            f"the tokenizer in {str(options.tokenizer)!r} has {wanted:,} tokens, the model in {options.base_model!r}"
            f" has {there:,}: it is not the tokenizer of this model (--tokenizer-path)"
        )
    network.resize_token_embeddings(wanted, mean_resizing=False)


def _with_lora(network: Any, options: ModelOptions) -> Any:
    """Put the LoRA into the model.

    Its product is added to the weights, so that it costs no time; with 8 bits it stays beside them.
    """
    import peft  # noqa: PLC0415 - two seconds to load, needed only for a LoRA

    path = str(options.lora_model)
    with _named("--lora-model", path):
        if peft.PeftConfig.from_pretrained(path).is_prompt_learning:
            raise SettingsError(f"--lora-model: {path!r} is a learned prompt, not a LoRA")
        given = peft.load_peft_weights(path, device="cpu")
    try:
        adapted = peft.PeftModel.from_pretrained(network, path)
        known = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        other = (known - set(given)) | {name for name in set(given) - known if "lora_" in name}
    except _FAULTS as error:
        raise SettingsError(_no_lora_of(options, in_words(error))) from error
    if other:
        first = min(other)
        raise SettingsError(_no_lora_of(options, f"{len(other)} tensors have no partner, the first is {first}"))
    return adapted.get_base_model() if options.load_in_8bit else adapted.merge_and_unload()


def _no_lora_of(options: ModelOptions, why: str) -> str:
    return f"--lora-model: {options.lora_model!r} is not a LoRA of the model in {options.base_model!r}: {why}"


def _generation_config(base: Path) -> dict[str, Any]:
    try:
        given = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"--base-model: generation_config.json cannot be read: {in_words(error)}") from error
    return given if isinstance(given, dict) else {}


def _ends(tokenizer: Any, config: Any, given: dict[str, Any]) -> frozenset[int]:
    named = [tokenizer.eos_token_id, getattr(config.get_text_config(), "eos_token_id", None), given.get("eos_token_id")]
    ends = {each for one in named for each in (one if isinstance(one, list) else [one]) if each is not None}
    added = tokenizer.get_added_vocab()
    return frozenset(ends | {added[mark] for mark in _TURN_ENDS if mark in added})


def _in_words(options: ModelOptions, network: Any, device: torch.device) -> str:
    lora = f" with the LoRA {options.lora_model}" if options.lora_model is not None else ""
    size = sum(each.numel() for each in network.parameters())
    bits = ", its weights in 8 bits" if options.load_in_8bit else ""
    gpus = f"GPUs {options.gpus}" if len(options.gpu_numbers) > 1 else f"{device.type}"
    return f"{options.base_model}{lora} ({size / 1e6:,.1f} million parameters{bits}, on {gpus})"


def _tried(model: Model) -> Model:
    """Try two steps, and find out whether rows of the cache can be put together."""
    fault: BaseException | None = None
    for joins in (True, False) if not getattr(model.network, "_is_stateful", False) else (False,):
        tried = Model(**{**vars(model), "can_join": joins})
        cache, ids = tried.new_cache(), torch.zeros((1, 1), dtype=torch.long, device=model.device)
        try:
            with torch.inference_mode():
                for length in (1, 2):
                    tried.forward(ids, torch.ones((1, length), dtype=torch.long, device=model.device), cache)
            if not joins or (can_join(cache) and cache.get_seq_length() == 2):
                return tried
        except _FAULTS as error:
            fault = error
    why = in_words(fault) if fault is not None else "its cache is of a kind of its own"
    raise SettingsError(f"--base-model: {model.in_words} does not write step by step: {why}")
