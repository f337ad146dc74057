"""`batcher serve --backend hf`: loads the model, then listens until Ctrl-C or SIGTERM.

Invariant: what is wrong with the options is an error before it listens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from batcher.server.hf.app import HfApp
from batcher.server.hf.engine import Engine
from batcher.server.hf.loading import Model, load
from batcher.server.hf.options import ModelOptions
from batcher.server.listening import PORT, listen, serve_app, served
from batcher.words import counted, say


def serve_model(
    options: ModelOptions, host: str = "127.0.0.1", port: int = PORT, *, name: str = "", keys: Sequence[str] = ()
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        options: which model, and on what.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        name: of the model; requests that name another one are refused. Default: its directory's, and any is taken.
        keys: that are accepted; empty: requests need none.

    Raises:
        SettingsError: the model cannot be loaded, or the server cannot listen on that address.
    """
    listen(host, port).close()  # loading takes minutes: an address that is taken is said before
    began = time.monotonic()
    say(f"Loading {options.base_model} ...")
    model = load(options)
    seconds = time.monotonic() - began

    def announce() -> None:
        form = "Alpaca's form" if model.tokenizer.chat_template is None else "its chat template"
        limit = f"{model.context:,} tokens" if model.context is not None else "no known limit of tokens"
        say(f"A model listens: {model.in_words}, loaded in {seconds:.0f} s. Ctrl-C ends it.")
        say(f"  name {name or model.name}; chats in {form}; context {limit}; {engine.most} at a time")

    with _running(model) as engine:
        app = HfApp(model, engine, name or model.name, is_strict=bool(name), keys=keys)
        serve_app(app.api, host, port, announce, is_open=not keys)
    say(f"{counted(app.requests, 'request')}, {counted(engine.answered, 'choice')} generated.")


@contextlib.contextmanager
def embedded_model(model: Model, name: str = "", *, most: int | None = None) -> Iterator[tuple[str, Engine]]:
    """Serve a model from a thread of this process, on a free port of 127.0.0.1, during a `with` block.

    Args:
        model: has been loaded.
        name: as of `serve_model`.
        most: choices that are generated together.

    Yields:
        The base URL, and the engine.
    """
    with _running(model, most) as engine:
        app = HfApp(model, engine, name or model.name, is_strict=bool(name))
        with served(app.api) as base_url:
            yield base_url, engine


@contextlib.contextmanager
def _running(model: Model, most: int | None = None) -> Iterator[Engine]:
    engine = Engine(model) if most is None else Engine(model, most)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
