"""Refuses options that make no sense for a run's task.

Invariant: what a service would refuse, or drop in silence, because of the task is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batcher.calls.naming import is_another
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.records import Task
from batcher.settings import OPTIONS, Settings, is_request_param
from batcher.words import as_given, blamed, option

_OF_CHATS = {
    "system": "write what it says into the prompt",
    "system_file": "write what it says into the prompt",
    "messages_column": "give the texts with {prompt_column}",
    "schema": "ask a chat for fields",
    "image_column": "ask a chat about images",
    "examples": "write the examples into the prompt",
    "repair": "a completion cannot be told what is wrong with it",
}
_OF_ANSWERS = ("labels", "keep_thinking", "stream")
# Request parameters of chats alone.
_CHAT_PARAMS = {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "audio"}
_CHAT_PARAMS |= {"max_completion_tokens", "modalities", "reasoning_effort", "top_logprobs", "verbosity"}
# The known request parameters that a request for embeddings may have, too.
_OF_ANY_TASK = {"user", "service_tier", "priority", "metadata", "extra_body", "extra_headers", "lora_path"}
_DIMENSIONS = "dimensions"  # of an embedding: the numbers of its vector
_OF_ANY_TASK |= {"add_special_tokens", "truncate_prompt_tokens", "safety_identifier"}


def check_task(settings: Settings) -> None:
    """Refuse options that make no sense for the task.

    Raises:
        SettingsError: the message names the option, and what to do.
    """
    task = Task(settings.task)
    if task is not Task.EMBEDDING:
        _check_no_embeddings(settings)
    if task is Task.CHAT:
        return
    what = as_given("task", task)
    for name, advice in _OF_CHATS.items():
        if _is_given(settings, name):
            said = advice.format(prompt_column=option("prompt_column", "COLUMN"))
            raise SettingsError(f"{blamed(name)} is for chats, and cannot be used with {what}: {said}")
    if settings.structured not in {"auto", "prompt"}:
        raise SettingsError(f"{blamed('structured')}: with {what} labels can be asked for in words alone: leave it out")
    if settings.asks_chat_model:
        raise SettingsError(
            f"Endpoint(llm=...) is a chat model, and cannot be used with {what}: give model and base_url"
        )
    if task is Task.EMBEDDING:
        _check_vectors(settings, what)
    check_params_of(settings.params, task, as_given("param"))


def _check_vectors(settings: Settings, what: str) -> None:
    """Refuse what is about answers in words."""
    for name in _OF_ANSWERS:
        if _is_given(settings, name):
            raise SettingsError(f"{blamed(name)} is about answers in words, and {what} gives vectors: leave it out")
    if settings.format == "csv":
        raise SettingsError(
            f"{as_given('format', 'csv')} cannot hold vectors: leave it out for Parquet, and add"
            f" {option('with_', 'npy')} for a file of NumPy"
        )


def check_params_of(params: Mapping[str, Any], task: Task, where: str) -> None:
    """Refuse request parameters that the task does not know.

    Raises:
        SettingsError: the message names the parameter.
    """
    for name in {**params, **(params.get("extra_body") or {})} if task is not Task.CHAT else ():
        is_other = name in _CHAT_PARAMS
        if task is Task.EMBEDDING:
            is_other = is_request_param(name) and name not in _OF_ANY_TASK
        if is_other or name in {"messages", "prompt", "input"}:
            raise SettingsError(f"{where}: {name} is no parameter of {as_given('task', task)}: leave it out")
    if params.get("encoding_format") == "base64" and params.get("output_dtype", "float") != "float":
        raise SettingsError(f"{where}: base64 is read as 32-bit floats: leave encoding_format or output_dtype out")


def check_params_of_endpoints(endpoints: Sequence[Endpoint], settings: Settings) -> None:
    """Refuse parameters of endpoints that the task does not know; see `check_params_of`."""
    for endpoint in endpoints:
        check_params_of(endpoint.params, Task(settings.task), "params of an endpoint")
    sizes = {
        endpoint.params[_DIMENSIONS] for endpoint in endpoints if isinstance(endpoint.params.get(_DIMENSIONS), int)
    }
    if settings.task == Task.EMBEDDING and len(sizes) > 1:
        said = " and ".join(map(str, sorted(sizes)))
        raise SettingsError(f"the endpoints have {said} {_DIMENSIONS}: vectors of one column need the same number")


def of_different_models(endpoints: Sequence[Endpoint]) -> tuple[str, str] | None:
    """Return the names of two endpoints' models that are not one model; None if there are none."""
    first, *others = [endpoint.source.model for endpoint in endpoints]
    return next(((first, other) for other in others if is_another(other, first)), None)


def _check_no_embeddings(settings: Settings) -> None:
    """Refuse what is for embeddings alone."""
    needs = f"needs {option('task', Task.EMBEDDING.value)}"
    if settings.inputs_per_request is not None:
        raise SettingsError(f"{blamed('inputs_per_request')} {needs}")
    if settings.writes_npy:
        raise SettingsError(f"{blamed('with_')}: npy holds vectors, and {needs}")


def _is_given(settings: Settings, name: str) -> bool:
    value, default = getattr(settings, name), OPTIONS[name].default
    return value is not None if default is None else bool(value != default)
