"""The share of a shard: of the limits of each account, and of the budget; and what keeps a run from being a shard.

Invariant: the shares of all shards add up to at most what the user gave. A limit that cannot be shared so is refused,
with what to do, because a share that is rounded up would let the shards together exceed it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from batcher.calls.endpoints import Tiers
from batcher.endpoint import Endpoint
from batcher.errors import BatcherError, SettingsError
from batcher.journal.folding import folded_from
from batcher.journal.opening import read_journal
from batcher.money.prices import NANO, nano_dollars
from batcher.output.directory import Store
from batcher.output.shards import merge_first, shards_of
from batcher.settings import Settings
from batcher.shards import Shard, named
from batcher.words import as_given, blamed, counted, option

_OF = {"rpm": "requests a minute", "rps": "requests a second", "tpm": "tokens a minute"}


def with_share_of_budget(settings: Settings) -> Settings:
    """Return the options of a shard with its share of the budget; those of a whole run as they are.

    Raises:
        SettingsError: the budget is too small to be shared.
    """
    shard = settings.part
    if shard is None or settings.budget is None:
        return settings
    share = shard.share(nano_dollars(settings.budget))
    if share < NANO / 10**6:  # the least that an option may be
        raise SettingsError(
            f"{blamed('budget')} {settings.budget:g} is too little for {shard.of:,} shards: give more, or make fewer"
            " shards"
        )
    return replace(settings, budget=share / NANO)


def with_shares(tiers: Tiers, settings: Settings) -> Tiers:
    """Return the endpoints with the shard's share of each limit; those of a whole run as they are.

    Endpoints of one account have the same limits, and so the same shares.

    Raises:
        SettingsError: a limit is smaller than the number of shards; the message says what to do.
    """
    shard = settings.part
    if shard is None or shard.of == 1:
        return tiers
    return Tiers(*(tuple(_shared(each, shard, settings) for each in group) for group in tiers))


def _shared(endpoint: Endpoint, shard: Shard, settings: Settings) -> Endpoint:
    shares: dict[str, Any] = {}
    for name in ("rpm", "rps", "tpm", "max_concurrency"):
        limit = getattr(endpoint, name)
        if limit is None:
            continue
        # A limiter counts whole requests: of 1.5 a second it lets 2 leave in some seconds.
        if limit < shard.of:
            raise SettingsError(_too_small(name, limit, shard, settings))
        shares[name] = shard.share(int(limit))
    return replace(endpoint, **shares)


def _too_small(name: str, limit: float, shard: Shard, settings: Settings) -> str:
    where = blamed(name if settings.endpoints is None else "endpoints")
    most = int(limit)
    of = _OF.get(name, "requests in flight")
    each = "1 token a minute" if name == "tpm" else f"1 {of.replace('requests', 'request')}"
    advice = [f"make at most {counted(most, 'shard')}"] if most else []
    if name == "rps" and limit * 60 >= shard.of:
        advice.insert(0, f"give {option('rpm', int(limit * 60))} in its place")
    elif name == "max_concurrency":
        advice.insert(0, f"give {option('max_concurrency', shard.of)} or more")
    said = f"{limit:g} {of} cannot be shared by {shard.of:,} shards, because each needs at least {each}"
    return f"{where}: {said}: {', or '.join(advice or ['run without shards'])}"


def check_shards(output: Path, keyword: str, shard: Shard | None) -> None:
    """Refuse to pay twice for rows that shards, or a whole run, have in an output directory.

    Raises:
        SettingsError: the run is whole, and there are shards that are not merged; or it is a shard, and there is a
            whole run, or shards of another number. Each with what to do.
    """
    whole = Store(output, keyword)
    if shard is None:
        if not whole.journal_path.exists() and (advice := merge_first(output, keyword)):
            raise SettingsError(
                f"a whole run would ask again what shards have asked. {advice}; or give {option('shard', 'I/N')} to go"
                f" on with a shard, or another {as_given('keyword')} or {as_given('output_dir')}"
            )
        return
    if whole.journal_path.exists():
        raise SettingsError(f"{as_given('shard', shard.option)}: {_of_whole(whole)}")
    there = shards_of(output, keyword)
    others = sorted({found.of for each in there if (found := named(each.name)) and found.of != shard.of})
    if others:
        raise SettingsError(
            f"{as_given('shard', shard.option)}: {there[0].parent} has shards of {', '.join(map(str, others))}: go on"
            f" with that number ({option('shard', f'I/{others[0]}')}), or choose another {as_given('output_dir')}"
        )
    if not there and whole.starts():
        raise SettingsError(
            f"{as_given('shard', shard.option)}: {output} has chunk files of {keyword!r}, whose answers only a whole"
            f" run takes over: run without shards, or choose another {as_given('output_dir')}"
        )


def _of_whole(whole: Store) -> str:
    """Return why a shard cannot be run beside a whole run, and what to do."""
    path = whole.journal_path
    with contextlib.suppress(BatcherError), read_journal(path) as journal:
        last = journal.last_run()
        if last is not None and (mark := last.question.get("shard")):
            own = f"{mark['number']}/{mark['of']}"
            above = os.fspath(whole.directory.absolute().parent.parent)
            return (
                f"{whole.directory} is the directory of shard {own}: give {option('output_dir', above)}, which holds"
                " all shards"
            )
        if folded_from(journal) is not None:
            return (
                f"the shards of {whole.keyword!r} are merged already: go on with the whole run, without"
                f" {as_given('shard')}; or move {path.name} and the files beside it away"
            )
    return (
        f"{path} is a whole run, whose rows would be paid again: go on without {as_given('shard')}, or choose another"
        f" {as_given('keyword')} or {as_given('output_dir')}"
    )
