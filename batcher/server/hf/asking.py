"""From a request to what the model is asked: tokens and sampling, or the refusal of what this model cannot do.

Invariant: a parameter that would change the answer is either obeyed or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.server.forms import Form, wanted_of
from batcher.server.hf.choice import Order, Piece
from batcher.server.hf.held import Held, holder
from batcher.server.hf.loading import Model
from batcher.server.hf.prompts import ALPACA_STOPS, chat_tokens, tokens_of
from batcher.server.hf.sampling import Sampling
from batcher.server.requests import ChatRequest, CompletionRequest, EmbeddingRequest, Options, TextOrTokens
from batcher.server.responses import Refusal, bad

_COLDEST = 1e-5  # a lower temperature is 0: logits divided by it would leave the range of 32-bit floats
_DIGITS = 20  # no token has a number of as many
_MAX_TOKENS = 512
"""The limit of an answer if neither the request nor the model's `generation_config.json` has one."""

# Fields of other servers that would change the answer, and their values that change nothing.
_CANNOT: dict[str, tuple[object, ...]] = {
    "min_p": (0,),
    "min_tokens": (0,),
    "max_new_tokens": (),
    "max_length": (),
    "typical_p": (1,),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "num_return_sequences": (1,),
    "best_of": (1,),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "stop_token_ids": ([],),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (0, False),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "chat_template": (),
    "grammar": ("",),
    "guided_json": (),
    "guided_regex": (),
    "guided_grammar": (),
}
_INSTEAD = {"max_new_tokens": "max_tokens", "max_length": "max_tokens", "num_return_sequences": "n", "best_of": "n"}

Tell = Callable[[Piece], None]


class Asked(NamedTuple):
    """What the model is asked, for each prompt of a request.

    Attributes:
        prompts: the tokens of each.
        sampling: how the answers are chosen.
        count_each: choices for each prompt.
        is_trimmed: answers do not begin with white space.
        held: makes what holds an answer to its form.
        echoes: the text that stands before the answer to each prompt; empty if none does.
        is_chat: the answers are messages.
    """

    prompts: list[list[int]]
    sampling: Sampling
    count_each: int
    is_trimmed: bool = False
    held: Callable[[], Held] | None = None
    echoes: Sequence[str] = ()
    is_chat: bool = False

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def echo(self, index: int) -> str:
        """Return the text that stands before a choice."""
        return self.echoes[index // self.count_each] if self.echoes else ""

    def orders(self, options: Options, tell: Tell) -> list[Order]:
        """Return the orders of a request, one for each prompt."""
        rest = (tell, options.is_streamed, self.is_trimmed, self.held)
        return [
            Order(prompt, self.sampling, self.count_each, place * self.count_each, *rest)
            for place, prompt in enumerate(self.prompts)
        ]


def ask_chat(model: Model, request: ChatRequest) -> Asked | Refusal:
    """Return what the model is asked by a chat."""
    if refusal := _of_a_chat(request) or _unsupported(request.body):
        return refusal
    wanted = wanted_of(request.body)
    held = holder(wanted, model.tokenizer, model.ends)
    if isinstance(held, Refusal):
        return held
    prompt = chat_tokens(model.tokenizer, request.messages, request.body)
    if isinstance(prompt, Refusal):
        return prompt
    is_alpaca = model.tokenizer.chat_template is None
    sampling = _sampling(model, request.options, request.body, [prompt], "messages", is_held=held is not None)
    if isinstance(sampling, Refusal):
        return sampling
    if is_alpaca:
        sampling = replace(sampling, stop=(*sampling.stop, *ALPACA_STOPS))
    is_trimmed = is_alpaca or wanted.form in {Form.CHOICE, Form.GUIDED}
    return Asked([prompt], sampling, request.options.n, is_trimmed, held, is_chat=True)


def ask_completion(model: Model, request: CompletionRequest) -> Asked | Refusal:
    """Return what the model is asked by a completion, which continues its prompt as it stands."""
    options, body = request.options, request.body
    if refusal := _of_a_completion(request) or _unsupported(body | {"best_of": None}):
        return refusal
    wanted = wanted_of(body)
    held = holder(wanted, model.tokenizer, model.ends)
    if isinstance(held, Refusal):
        return held
    prompts = _all_tokens(model, request.prompts, "prompt")
    if isinstance(prompts, Refusal):
        return prompts
    sampling = _sampling(model, options, body, prompts, "prompt", is_held=held is not None)
    if isinstance(sampling, Refusal):
        return sampling
    echoes: list[str] = []
    if request.is_echoed:
        echoes = [each if isinstance(each, str) else model.tokenizer.decode(each) for each in request.prompts]
    return Asked(prompts, sampling, options.n, wanted.form in {Form.CHOICE, Form.GUIDED}, held, echoes)


def _of_a_completion(request: CompletionRequest) -> Refusal | None:
    """Refuse what a completion alone can ask for, and does not get."""
    options = request.options
    if (request.body.get("best_of") or options.n) > options.n:
        return bad("'best_of' above 'n' is not supported: ask for 'n' choices.", "best_of")
    if request.is_echoed and options.logprobs is not None:
        return bad("'echo' together with 'logprobs' is not supported: the prompt's tokens are not judged.", "echo")
    return None


def _of_a_chat(request: ChatRequest) -> Refusal | None:
    if request.tools.offered and request.tools.choice != "none":
        return bad("This server calls no tools: leave out 'tools', or set 'tool_choice' to 'none'.", "tools")
    return None


def _unsupported(body: Mapping[str, Any]) -> Refusal | None:
    """Refuse a field of another server that this one would have to pass over."""
    for name, neutral in _CANNOT.items():
        if body.get(name) is not None and body[name] not in neutral:
            instead = f": give {_INSTEAD[name]!r}" if name in _INSTEAD else ""
            return bad(f"{name!r} is not supported{instead}.", name)
    structured = body.get("structured_outputs") or {}
    for name, value in structured.items():
        if name != "choice" and value is not None:
            said = (
                f"'structured_outputs.{name}' is not supported: this server holds answers to a choice of texts alone."
            )
            return bad(said, "structured_outputs")
    return None


def ask_embedding(model: Model, request: EmbeddingRequest) -> list[list[int]] | Refusal:
    """Return the tokens of the inputs to embed."""
    if request.dimensions not in (None, model.width):
        return bad(f"'dimensions' cannot be chosen: this model's embeddings have {model.width}.", "dimensions")
    inputs = _all_tokens(model, request.inputs, "input")
    if isinstance(inputs, Refusal):
        return inputs
    longest = max(map(len, inputs))
    if model.context is not None and longest > model.context:
        return _too_long(model.context, f"an input has {longest:,} tokens", "input")
    return inputs


def _all_tokens(model: Model, given: Sequence[TextOrTokens], name: str) -> list[list[int]] | Refusal:
    """Return the tokens of texts, as the tokenizer begins and ends a text."""
    size = model.network.get_input_embeddings().weight.shape[0]
    found = []
    for each in given:
        ids = tokens_of(model.tokenizer, each, name) if isinstance(each, str) else list(each)
        if isinstance(ids, Refusal):
            return ids
        if max(ids, default=0) >= size:
            return bad(f"{name!r} holds a token that the model does not have: it has {size:,}.", name)
        if not ids:
            first = model.tokenizer.bos_token_id
            ids = [first if first is not None else min(model.ends, default=0)]
        found.append(ids)
    return found


def _sampling(
    model: Model, options: Options, body: dict[str, Any], prompts: Sequence[Sequence[int]], name: str, *, is_held: bool
) -> Sampling | Refusal:
    limit = _limit(model, options, max(map(len, prompts)), name)
    bias = _bias(model, body.get("logit_bias"))
    if isinstance(limit, Refusal):
        return limit
    if isinstance(bias, Refusal):
        return bias
    sampling = Sampling(
        max_tokens=limit,
        num_beams=options.num_beams or 1,
        frequency_penalty=options.frequency_penalty or 0.0,
        presence_penalty=options.presence_penalty or 0.0,
        logit_bias=bias,
        stop=options.stop,
        seed=options.seed,
        logprobs=options.logprobs,
        **_heat(model, options),
    )
    return _without_beams(sampling, options, is_held=is_held) or sampling


def _heat(model: Model, options: Options) -> dict[str, Any]:
    """Return what decides between the likeliest token and a draw; the model's own values stand in for missing ones.

    A search with beams draws only if the request says so.
    """
    given = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    given = {name: model.defaults.get(name, value) for name, value in given.items()}
    for name in given:
        value = getattr(options, name)
        value = given[name] if value is None else value
        given[name] = int(value) if name == "top_k" else float(value)  # a search with beams refuses 2 for 2.0
    is_drawn = options.do_sample
    if is_drawn is None:
        is_drawn = (options.num_beams or 1) == 1 or options.temperature is not None
    size = model.network.get_input_embeddings().weight.shape[0]
    given["top_k"] = 0 if given["top_k"] >= size else given["top_k"]
    return given | {"is_drawn": is_drawn and given["temperature"] >= _COLDEST}


def _limit(model: Model, options: Options, longest: int, name: str) -> int | Refusal:
    """Return how many tokens an answer may have: what is asked for must fit into the context beside the prompt."""
    default = int(model.defaults.get("max_new_tokens", _MAX_TOKENS))
    if model.context is None:
        return options.max_tokens or default
    room = model.context - longest
    if options.max_tokens is None and room > 0:
        return min(default, room)
    if (options.max_tokens or 1) > room:
        wanted = f" and {options.max_tokens:,} for the answer" if options.max_tokens else ""
        return _too_long(model.context, f"you asked for {longest:,} tokens in the {name}{wanted}", name)
    return options.max_tokens or default


def _too_long(context: int, why: str, name: str) -> Refusal:
    said = f"This model's maximum context length is {context:,} tokens, but {why}. Shorten it."
    return bad(said, name, "context_length_exceeded")


def _bias(model: Model, given: dict[str, Any] | None) -> dict[int, float] | Refusal:
    size = model.network.get_input_embeddings().weight.shape[0]
    bias: dict[int, float] = {}
    for token, value in (given or {}).items():
        is_token = token.isascii() and token.isdigit() and len(token) < _DIGITS and int(token) < size
        if not is_token or type(value) not in (int, float) or not -100 <= value <= 100:
            return bad("'logit_bias' must give tokens of the model numbers from -100 to 100.", "logit_bias")
        bias[int(token)] = float(value)
    return bias


def _without_beams(sampling: Sampling, options: Options, *, is_held: bool) -> Refusal | None:
    """Refuse what a search with beams cannot do."""
    if sampling.num_beams == 1:
        return None
    if options.n > sampling.num_beams:
        return bad("'n' must not be more than 'num_beams'.", "n")
    cannot = {
        "logprobs": sampling.logprobs is not None,
        "response_format": is_held,
        "frequency_penalty": sampling.frequency_penalty != 0,
        "presence_penalty": sampling.presence_penalty != 0,
        "logit_bias": bool(sampling.logit_bias),
    }
    for name, is_asked in cannot.items():
        if is_asked:
            return bad(f"{name!r} does not go together with 'num_beams'.", name)
    return None
