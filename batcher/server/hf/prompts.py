"""From messages to the tokens of a prompt: by the tokenizer's chat template, or in Alpaca's form.

Invariant: what a message holds besides its text is never left out silently: such a request is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from batcher.server.responses import Refusal, bad

_HEADER = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_INSTRUCTION = "### Instruction:\n"
_RESPONSE = "### Response: "

ALPACA_STOPS = ("### Instruction:",)
"""What a model writes after its answer if it goes on with the conversation by itself."""


def chat_tokens(tokenizer: Any, messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> list[int] | Refusal:
    """Return the tokens of a chat, up to where the answer begins.

    Args:
        tokenizer: of the model.
        messages: each with a role and its text under `content`, as a text or a list of parts.
        body: of the request; its `chat_template_kwargs` are handed to the template.
    """
    plain = []
    for place, message in enumerate(messages):
        text = _text(message.get("content"))
        if text is None:
            return bad("This model reads texts only: no images, sounds or files.", f"messages[{place}].content")
        if message.get("tool_calls") or message.get("role") in {"tool", "function"}:
            return bad("This server calls no tools, and reads no results of tools.", f"messages[{place}]")
        role = "system" if message["role"] == "developer" else message["role"]
        plain.append({"role": role, "content": text})
    if tokenizer.chat_template is None:
        return tokens_of(tokenizer, alpaca(plain), "messages")
    return _by_template(tokenizer, plain, body.get("chat_template_kwargs"))


def alpaca(messages: Sequence[Mapping[str, str]]) -> str:
    """Write messages in Alpaca's form; system messages stand in place of its header."""
    systems = [message["content"] for message in messages if message["role"] == "system"]
    turns = [
        (_INSTRUCTION if message["role"] == "user" else _RESPONSE) + message["content"]
        for message in messages
        if message["role"] != "system"
    ]
    return "\n\n".join(["\n".join(systems) or _HEADER, *turns, _RESPONSE])


def _by_template(tokenizer: Any, messages: list[dict[str, str]], given: object) -> list[int] | Refusal:
    from jinja2 import TemplateError  # noqa: PLC0415 - transformers needs it for templates alone

    if given is not None and not isinstance(given, dict):
        return bad("'chat_template_kwargs' must be an object.", "chat_template_kwargs")
    # What is the library's own is not the client's to set: a template that it sends might never end.
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    if taken := sorted(name for name in given or {} if name in own or name == "messages"):
        said = f"{taken[0]!r} is not a variable of the chat template that a request may set."
        return bad(said, "chat_template_kwargs")
    try:
        text = tokenizer.apply_chat_template(
            messages, **{**(given or {}), "tokenize": False, "add_generation_prompt": True}
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        return bad(f"The model's chat template does not take these messages: {error}", "messages")
    return tokens_of(tokenizer, text, "messages", is_whole=False)


def tokens_of(tokenizer: Any, text: str, name: str, *, is_whole: bool = True) -> list[int] | Refusal:
    """Return the tokens of a text, or refuse what no tokenizer reads.

    Args:
        tokenizer: of the model.
        text: from a request.
        name: of the field that it comes from.
        is_whole: the tokenizer adds the marks with which it begins and ends a text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return bad(f"{name!r} holds half of a surrogate pair, which is no character.", name)
    return list(tokenizer(text, add_special_tokens=is_whole)["input_ids"])


def _text(content: object) -> str | None:
    """Return the text of a content; None if it holds something else."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    return "\n".join(texts) if len(texts) == len(found) else None
