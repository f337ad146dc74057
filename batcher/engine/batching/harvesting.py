"""The harvest of a batch that is over: its output and error file are read, and each of its lines gets its end.

Invariant: a row gets the answer of its own line and no other. What was harvested is in the journal before it counts, so
that a harvest which was broken off is done again, and skips what has its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from batcher.answer.confidence import confidence_of
from batcher.answer.reading import is_whole
from batcher.answer.reading import read as as_result
from batcher.answer.shape import ReadAs, Shape
from batcher.calls.batch_service import LINE_CANCELLED, LINE_EXPIRED, BatchService, Remote, RemoteState
from batcher.calls.embeddings import NO_VECTOR
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.forms import Form
from batcher.calls.texts import one_line
from batcher.engine.batching.ends import error_of
from batcher.engine.batching.lines import line_of
from batcher.engine.batching.result_files import Found, ResultFile
from batcher.engine.canary import WINDOW, Canary
from batcher.engine.notices import Notices
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import to_the_end
from batcher.errors import output_error
from batcher.journal.entries import CANCELLED, EXPIRED, LOST, READ_AS, UNFIT, UNSENT, Batch, BatchState, Line, Outcome
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.pool.member import Member
from batcher.records import NO_TERMS, Completion, Failure, Fault, Result, Status, Task, Terms
from batcher.settings import Settings
from batcher.words import counted, option

_ESCAPED = 2  # times the bytes of a response: in a line some of its characters are written longer
_WRAPPED = 2**16  # bytes of a line around its response
_FEWEST_LINE = 2**16  # bytes of a line that is read in any case
_AT_ONCE = 250  # lines that are ended together
_NAMED = 3  # further odd lines of a kind that are named
_LONGEST_WHY = 2000  # characters
_GIVES_UP_S = 1800.0
"""The seconds after which a file that the service does not hand out is gone: it may show it late."""
_GONE = {404, 410}
# What no attempt at a row is.
_UNTRIED = {EXPIRED, CANCELLED, LOST, UNSENT, UNFIT}
_REFUSED = {Fate.ROW_ENDS, Fate.ROW_REFUSED, Fate.ENDPOINT_REFUSES, Fate.ENDPOINT_OUT}
_PATHS = {"/embeddings": Task.EMBEDDING, "/chat/completions": Task.CHAT, "/completions": Task.COMPLETION}


class Harvest(NamedTuple):
    """What came of a batch, as far as this harvest has ended its lines.

    Attributes:
        answered: lines whose answer is a row's result, or one of several, or a late one.
        unfit: lines whose answer did not fit, and whose row is asked again.
        failed: lines that were refused or failed at the service.
        ended: of these, the rows that ended with it.
        expired, cancelled: lines that the service did not ask: they cost nothing, and their rows are left to ask.
        unsent: lines of a batch that was refused as a whole.
        lost: lines about which the files say nothing although the service may have answered them: they may be billed.
        late: of the answered lines, those whose row had a result already.
        doubled, strangers: lines of the files that are there twice, or that are no line of the batch.
        refused: why every line was refused, if it was, and nothing shows that this endpoint answers at all; else empty.
        failure: one of these refusals.
        looks_wrong: why the run should stop because of the answers so far (the canary); else empty.
    """

    answered: int = 0
    unfit: int = 0
    failed: int = 0
    ended: int = 0
    expired: int = 0
    cancelled: int = 0
    unsent: int = 0
    lost: int = 0
    late: int = 0
    doubled: int = 0
    strangers: int = 0
    refused: str = ""
    failure: Failure | None = None
    looks_wrong: str = ""


@dataclass
class _Odd:
    """Lines of a file that are odd in one way.

    Attributes:
        first: the first of them, in words.
        others: the first of the others, in words.
        more: the number of the others.
    """

    first: str
    others: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, number: int, shown: str) -> None:
        self.more += 1
        if len(self.others) < _NAMED:
            self.others.append(f"{number:,} ({shown})")

    def __str__(self) -> str:
        if not self.more:
            return self.first
        named = ", ".join([*self.others, *([] if self.more == len(self.others) else ["..."])])
        return f"{self.first}, and {counted(self.more, 'more line')} like that: {named}"


@dataclass
class _Sheaf:
    """A batch that is being harvested.

    Attributes:
        counts: by the names of `Harvest`, what came so far.
        answered: the ids of the lines that the files answer.
        failed: for each other line of the files, the file, the line's number and its offset.
        odd: the odd lines, by their file and what is odd.
        gone: which file is not there, and why; empty if none is missing.
        refusal: of a line; None: no line was refused.
        tried: the service has tried a line of which no answer came, and has not refused it.
        knows: this endpoint is known to answer.
        held, missed: whole answers that fit, and that do not.
        looks_wrong: as in `Harvest`.
    """

    batch: Batch
    member: Member
    terms: Terms
    counts: dict[str, Any] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    failed: dict[int, tuple[ResultFile, int, int]] = field(default_factory=dict)
    odd: dict[tuple[str, str], _Odd] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    refusal: Failure | None = None
    tried: bool = False
    knows: bool = False
    held: int = 0
    missed: int = 0
    looks_wrong: str = ""

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def note(self, file: ResultFile, found: Found, odd: str, shown: str, kind: str = "") -> None:
        """Record what is odd about a line of a file.

        Args:
            file: that has it.
            found: the line.
            odd: what is odd.
            shown: a part of it, for people.
            kind: of that part.
        """
        key = (file.kind, odd)
        if key in self.odd:
            self.odd[key].add(found.number, f"{kind}{shown!r}")
        else:
            self.odd[key] = _Odd(f"line {found.number:,} of the {file.kind} file {odd}: {kind}{shown!r}")


class Harvester:
    """Harvests the batches of a run, one after the other.

    Args:
        journal: has the lines, and gets their ends.
        settings: the options: attempts, repairs, thoughts, the longest response.
        directory: the output directory, into which results are downloaded.
        keyword: of the run.
        shape: what answers must be; None: any text will do.
        read: reads an answer; default: by the shape.
        scores: lines ask for log-probabilities.
        is_one_of_several: an answer is not yet its row's result (`--samples` above 1, or `--then`): it is recorded as
            an opinion, and a pass of the window makes the result.
        spending: gets back what lines did not cost.
        tally: counts rows, tokens and money.
        progress: shows messages.
        canary: looks at the answers; None: nobody does.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        *,
        directory: Path,
        keyword: str,
        shape: Shape | None = None,
        read: Callable[[Completion], Result] | None = None,
        scores: bool = False,
        is_one_of_several: bool = False,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        canary: Canary | None = None,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._directory = directory
        self._keyword = keyword
        self._shape = shape
        self._read = read or (lambda completion: as_result(completion, shape))
        self._is_one_of_several = is_one_of_several
        self._is_embedding = settings.task == Task.EMBEDDING
        # The parameters of each row are its own, and not known here.
        self._has_own_params = settings.requests or bool(settings.param_columns)
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._canary = canary
        read_as = None if shape is None else ReadAs.of(shape)
        self._notices = Notices(settings, journal, progress, read_as, scores=scores)
        self._loop = asyncio.get_running_loop()
        if journal.run:
            journal.note(READ_AS, "", json.dumps(_recorded(settings, is_one_of_several=is_one_of_several)))
        # For each batch of which a file is not there: since when, by the loop's time.
        self._missing_since: dict[int, float] = {}

    async def harvest(
        self, batch: Batch, remote: Remote | None, service: BatchService, member: Member
    ) -> Harvest | Failure:
        """Give each line of a batch that is over its end, and the batch the state `DONE`.

        The tariff of the member is the online one; lines cost its `in_batches()`. What the lines were charged until
        now, their bounds, counts as spent: the harvest gives back what they did not cost (`Spending.give_back`).

        Args:
            batch: as the journal has it.
            remote: as the service says it; it is over. None: the service does not know it any more, and it is given up:
                every line is lost, and may be billed.
            service: of its endpoint.
            member: its endpoint.

        Returns:
            What came of it; or why a file could not be downloaded: then the harvest is to be tried again. What was
            harvested until then stays.

        Raises:
            OutputError: the journal, or a file in the output directory, cannot be written.
        """
        if remote is not None:
            batch = await self._journal.batch_moved(batch, **_said(remote))
        sheaf = _Sheaf(batch, member, _terms(batch))
        files = await self._downloaded(sheaf, remote, service)
        if isinstance(files, Failure):
            return files
        for file in files:
            await self._read_file(sheaf, file)
        await self._end_failed(sheaf)
        await self._end_others(sheaf, remote)
        await self._journal.batch_done(batch, why=_why(batch, remote, sheaf))
        for file in files:
            with self._as_output_errors(file.path):
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
        self._tell(sheaf, remote)
        return self._harvest_of(sheaf)

    # -- Files

    async def _downloaded(
        self, sheaf: _Sheaf, remote: Remote | None, service: BatchService
    ) -> list[ResultFile] | Failure:
        """Download the files of a batch, the output file first, unless they are there: each exists only whole."""
        if remote is None:
            return []
        batch = sheaf.batch
        most = max(int(_ESCAPED * self._settings.max_response_mb * 1e6), _FEWEST_LINE) + _WRAPPED
        counts = {"output": remote.completed, "error": 0}  # a service may have no error file
        files = []
        for kind, name in (("output", remote.output_file), ("error", remote.error_file)):
            path = self._directory / f"batch_{self._keyword}_{batch.name}_{kind}.jsonl"
            failure = None if name or not counts[kind] else _not_named(counts[kind] or 0)
            if name:
                with self._as_output_errors(path):
                    is_there = await asyncio.to_thread(path.exists)
                    failure = None if is_there else await service.download(name, path)
            if failure and failure.status in _GONE and not self._is_gone(batch):
                return replace(failure, status=None, fault=Fault.PROTOCOL)  # worth another attempt
            if failure and failure.status not in _GONE:
                return failure
            if failure:
                sheaf.gone.append(f"the {kind} file is not there: {failure}")
            elif name:
                files.append(ResultFile(path, kind, service.read, most))
        self._missing_since.pop(batch.id, None)
        return files

    def _is_gone(self, batch: Batch) -> bool:
        """Return whether a file that a service does not hand out has been waited for long enough."""
        now = self._loop.time()
        return now - self._missing_since.setdefault(batch.id, now) >= _GIVES_UP_S

    async def _read_file(self, sheaf: _Sheaf, file: ResultFile) -> None:
        """Settle the rows whose lines a file answers, and record the other lines for later."""
        with contextlib.closing(file.groups()) as groups, self._as_output_errors(file.path):
            while group := await to_the_end(self._loop.run_in_executor(None, _next, groups)):
                lines = await self._lines(sheaf, [found for found in group if found.answer])
                answers = [each for found in group if (each := self._answer(sheaf, file, found, lines))]
                await self._end_all(sheaf, answers)

    @contextlib.contextmanager
    def _as_output_errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(f"{path} cannot be used: {error.strerror}", error) from error

    async def _lines(self, sheaf: _Sheaf, group: Sequence[Found]) -> dict[int, Line]:
        """Return the lines of the journal that the lines of a file may be about."""
        ids = {number for found in group if found.answer and (number := _number_in(found.answer.custom_id))}
        return await asyncio.to_thread(self._journal.lines_of, sheaf.batch.id, sorted(ids))

    def _answer(
        self, sheaf: _Sheaf, file: ResultFile, found: Found, lines: dict[int, Line]
    ) -> tuple[Line, Completion | Failure] | None:
        """Return an answer whose line has no end yet; None: there is nothing to do now."""
        if found.answer is None:
            sheaf.add("strangers")
            sheaf.note(file, found, "is no result", one_line(found.beginning))
            return None
        name, came = found.answer
        line = line_of(name, lines)
        if line is None:
            sheaf.add("strangers")
            sheaf.note(file, found, "is about no line of this batch", one_line(name)[:80], "custom_id ")
            return None
        is_answer, request = isinstance(came, Completion) or bool(came.generated), line.request
        if request.id in sheaf.answered or request.id in sheaf.failed:
            what = "an answer" if is_answer else "a failure"
            counts = "" if not is_answer or request.id in sheaf.answered else ", which counts"
            sheaf.add("doubled")
            sheaf.note(file, found, f"is there a second time, with {what}{counts}", name, "custom_id ")
        if not is_answer:
            if request.id not in sheaf.answered:
                sheaf.failed.setdefault(request.id, (file, found.number, found.offset))
            return None
        sheaf.failed.pop(request.id, None)
        if request.id in sheaf.answered:
            return None
        sheaf.answered.add(request.id)
        return None if line.has_ended else (line, came)

    # -- Lines

    async def _end_all(self, sheaf: _Sheaf, lines: Sequence[tuple[Line, Completion | Failure]]) -> None:
        """Give lines their ends, all of them in one commit."""
        await _all_of([self._end(sheaf, line, came) for line, came in lines])
        await self._journal.flush()

    async def _end(self, sheaf: _Sheaf, line: Line, came: Completion | Failure) -> None:
        if isinstance(came, Failure) and came.generated:
            came = Completion(came.generated, came.code, limits=came.limits, choices=0)
        elif isinstance(came, Completion) and self._is_embedding:
            came = replace(came, raw=b"")  # the vector holds all of it
            if len(came.vectors) != 1:
                came = Failure(Fault.PROTOCOL, "other vectors came than were asked for", may_be_billed=True)
        if isinstance(came, Completion):
            await self._answered(sheaf, line, came)
        else:
            await self._failed(sheaf, line, came)

    async def _answered(self, sheaf: _Sheaf, line: Line, came: Completion) -> None:
        """Settle a row by what came, unless the row is asked again."""
        member, form = sheaf.member, sheaf.batch.form
        self._notices.of_answer(member, came, None if self._has_own_params else NO_TERMS)
        if self._settings.keep_thinking:
            came = came.as_it_came or came
        cost = member.tariff_in(form or None).in_batches().on(sheaf.terms).cost(came, line.bound)
        cost = line.bound.cost if cost is None else cost
        outcome = Outcome("answered", came.usage, cost, came, form or None)
        if self._is_embedding:
            self._notices.of_vector(member, came.vectors[0])
            vector = came.vectors[0]
            result = Result(Status.OK, vector, "") if vector else Result(Status.INVALID, "", NO_VECTOR)
        else:
            result = self._read(came)
            outcome = outcome._replace(confidence=confidence_of(came, result, self._shape))
            if self._is_asked_again(sheaf, line, came, result):
                await self._journal.unfit(line.request, outcome)
                self._count(line, outcome)
                sheaf.add("unfit")
                return
        await self._settle(sheaf, line, outcome, result)
        self._spending.refund(line.request.key, line.request.source, came.usage.prompt_tokens)
        sheaf.add("answered")

    def _is_asked_again(self, sheaf: _Sheaf, line: Line, came: Completion, result: Result) -> bool:
        """Return whether a row is asked again, because its answer does not fit: in another form, or corrected."""
        member, position = sheaf.member, line.request.position
        if self._shape is None or not sheaf.batch.form:
            return False
        form, choice = _form(sheaf.batch), member.choice
        if result.status is Status.OK:
            sheaf.held += 1
            if choice and form:
                choice.held(form, position, ())
                self._notices.of_form(member)
            return False
        if not is_whole(came) or line.is_answered:
            return False
        sheaf.missed += 1
        if choice and form and choice.missed(form, position) and choice.step_after(form) is not None:
            return True
        if not self._settings.repair or not result.answer.strip():
            return False
        return self._journal.refusals_of(line.request.key, position).get(UNFIT, 0) < self._settings.repair

    async def _settle(self, sheaf: _Sheaf, line: Line, outcome: Outcome, result: Result) -> None:
        """Journal how asking about a row ended, and count it only then."""
        request, followers = line.request, line.followers
        if self._is_one_of_several:
            outcome, result = self._journal.holdable(request, outcome, result)
            await self._journal.opined(request, outcome, result)
        elif self._is_embedding and not line.is_answered:
            await self._journal.settled_together(request, outcome, [result], [followers > 0])
        else:
            result = await self._journal.settled(
                request, outcome, result, followers=followers > 0, is_late=line.is_answered
            )
        self._count(line, outcome)
        if line.is_answered:
            sheaf.add("late")
            return
        if not self._is_one_of_several:
            self._tally.count(result.status, 1 + followers)
        self._look(sheaf, request.position, result)

    def _look(self, sheaf: _Sheaf, position: int, result: Result) -> None:
        if self._canary is None:
            return
        if len(self._canary.first) < WINDOW:
            self._canary.see_first(position, result)
        sheaf.looks_wrong = self._canary.see(position, result) or sheaf.looks_wrong

    def _count(self, line: Line, outcome: Outcome) -> None:
        """Count what a line used and cost, and give back what it did not cost."""
        self._tally.cut += outcome.is_cut
        self._tally.prompt_tokens += outcome.usage.prompt_tokens or 0
        self._tally.completion_tokens += outcome.usage.completion_tokens or 0
        if outcome.completion is not None:
            self._spending.count(outcome.cost)
        self._spending.give_back((line.bound.cost or 0) - (outcome.cost or 0))

    # -- Lines without an answer

    async def _end_failed(self, sheaf: _Sheaf) -> None:
        """End the lines that failed, now that it is known that no other line of the files answers them."""
        journal, source = self._journal, sheaf.batch.source
        sheaf.knows = bool(sheaf.answered) or await asyncio.to_thread(journal.has_answered, source)
        left = [*sheaf.failed.items()]
        for start in range(0, len(left), _AT_ONCE):
            part = dict(left[start : start + _AT_ONCE])
            lines = await asyncio.to_thread(journal.lines_of, sheaf.batch.id, sorted(part))
            failures = await asyncio.to_thread(_read_again, [*part.values()])
            ended = [
                (lines[number], came)
                for number, came in zip(part, failures, strict=True)
                if isinstance(came, Failure) and not lines[number].has_ended
            ]
            await self._end_all(sheaf, ended)

    async def _failed(self, sheaf: _Sheaf, line: Line, failure: Failure) -> None:
        """End a line that the service refused, did not ask, or could not answer; its row may be asked again."""
        request = line.request
        if failure.code in {LINE_EXPIRED, LINE_CANCELLED}:
            self._end_unasked(sheaf, line, EXPIRED if failure.code == LINE_EXPIRED else CANCELLED)
            return
        billed = line.bound.cost if failure.may_be_billed or line.bound.cost is None else 0
        outcome = Outcome(str(failure.status or failure.fault.value), cost=billed)
        meaning = meaning_of(failure)
        if meaning.fate in _REFUSED:
            sheaf.refusal = sheaf.refusal or failure
        else:
            sheaf.tried = True
        sheaf.add("failed")
        if failure.left_out:
            self._notices.of_left_out(sheaf.member, failure)
        if billed:
            self._spending.lose(request.key, request.source, line.bound)
        error = None
        # A refusal is the row's own only if something is answered there.
        if (sheaf.knows or meaning.fate not in _REFUSED) and not line.is_answered and not failure.left_out:
            counts = self._journal.refusals_of(request.key, request.position)
            before = sum(count for name, count in counts.items() if name not in _UNTRIED)
            error = error_of(failure, before, self._settings.max_attempts)
            error = str(failure) if error is None and meaning.fate is Fate.ROW_ENDS else error
        if error is None:
            self._journal.failed(request, outcome)
            self._count(line, outcome)
            return
        sheaf.add("ended")
        await self._end_row(sheaf, line, outcome, Result(Status.ERROR, "", f"{meaning.reason}: {error}"))

    async def _end_row(self, sheaf: _Sheaf, line: Line, outcome: Outcome, result: Result) -> None:
        """End a row whose last line failed: with its latest answer, if one came that did not fit."""
        kept = self._journal.latest_unfit(line.request) if self._shape is not None else None
        if kept is None:
            await self._settle(sheaf, line, outcome, result)
            return
        request, outcome_before, text = kept
        self._journal.failed(line.request, outcome)
        self._count(line, outcome)
        result, is_late = self._read(Completion(text)), line.is_answered
        if self._is_one_of_several:
            await self._journal.opined(request, outcome_before, result, is_kept=True)
            return
        await self._journal.settled(
            request, outcome_before, result, followers=line.followers > 0, is_kept=True, is_late=is_late
        )
        self._tally.count(result.status, 1 + line.followers)
        self._look(sheaf, request.position, result)

    def _end_unasked(self, sheaf: _Sheaf, line: Line, name: str) -> None:
        """End a line that the service did not ask, or about which it says nothing."""
        outcome = Outcome(name, cost=line.bound.cost if name == LOST else 0)
        self._journal.failed(line.request, outcome)
        self._count(line, outcome)
        if name == LOST:
            self._spending.lose(line.request.key, line.request.source, line.bound)
        sheaf.add(name)

    async def _end_others(self, sheaf: _Sheaf, remote: Remote | None) -> None:
        """End the lines about which the files say nothing.

        If the service counts more answers than its files have, as many of these lines may be billed.
        """
        name = LOST if sheaf.gone else _outcome_of_others(remote, has_come=bool(sheaf.answered or sheaf.failed))
        said = (remote.completed if remote else None) or 0
        short = 0 if name == LOST else max(said - len(sheaf.answered), 0)
        after = 0
        while lines := await asyncio.to_thread(self._journal.lines, sheaf.batch.id, after, _AT_ONCE):
            for line in lines:
                self._end_unasked(sheaf, line, LOST if short > 0 else name)
                short -= 1
            after = lines[-1].request.id
            await self._journal.flush()

    # -- The whole

    def _tell(self, sheaf: _Sheaf, remote: Remote | None) -> None:
        """Tell people what is odd about a batch."""
        for odd in sheaf.odd.values():
            self._progress.say(f"{_named(sheaf.batch)}: {odd}.", "warning")
        if lost := sheaf.counts.get(LOST):
            of = f"is {remote.said or remote.state.value}" if remote else "is given up"
            rows = counted(lost, "line")
            self._progress.say(
                f"{_named(sheaf.batch)} {of}, and nothing came about {rows}: they may be billed, and their rows are"
                " asked again.",
                "warning",
            )

    def _tell_left(self, sheaf: _Sheaf) -> None:
        """Tell people that no answer of a batch fits, and what becomes of its rows."""
        again = sheaf.counts.get("unfit", 0)
        invalid = sheaf.missed - again
        said = f"{_named(sheaf.batch)}: none of its {counted(sheaf.missed, 'answer')} fits, so another form is tried"
        if invalid > 0:
            said += (
                f" for {counted(again, 'row')}; {invalid:,} more are invalid, and"
                f" {option('retry_failed', value=True)} asks them again, too"
            )
        self._progress.say(f"{said}.", "warning")

    def _harvest_of(self, sheaf: _Sheaf) -> Harvest:
        choice, form = sheaf.member.choice, _form(sheaf.batch)
        if choice and form and sheaf.missed and not sheaf.held and choice.leave(form):
            self._tell_left(sheaf)
        looks_wrong = sheaf.looks_wrong
        if self._canary and len(self._canary.first) in range(max(self._settings.canary, 1), WINDOW):
            looks_wrong = looks_wrong or self._canary.verdict()
        found = Harvest(looks_wrong=looks_wrong)._replace(**sheaf.counts)
        refusal = sheaf.refusal
        if refusal is None or sheaf.tried or sheaf.knows:
            return found
        return found._replace(refused=f"{meaning_of(refusal).reason}: {refusal}", failure=refusal)


def _next(groups: Iterator[list[Found]]) -> list[Found]:
    return next(groups, [])


def _read_again(places: Sequence[tuple[ResultFile, int, int]]) -> list[Completion | Failure | None]:
    """Read lines of files again."""
    found: list[Completion | Failure | None] = []
    for file, number, offset in places:
        [line] = file.at({number: offset})
        found.append(line.answer.outcome if line.answer else None)
    return found


async def _all_of(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several things to their ends, and raise the first error only then."""
    for error in filter(None, await asyncio.gather(*works, return_exceptions=True)):
        raise error


def _number_in(name: str) -> int:
    """Return the number in the name of a line; 0 if there is none."""
    number = name.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0


def _named(batch: Batch) -> str:
    return f"Batch {batch.service_id or batch.name}"


_RECORDED = ("repair", "keep_thinking", "max_attempts", "max_response_mb")


def _recorded(settings: Settings, *, is_one_of_several: bool) -> dict[str, Any]:
    """Return what `cancel` has to know to harvest as this run does, besides its labels or its schema."""
    return {name: getattr(settings, name) for name in _RECORDED} | {"is_one_of_several": is_one_of_several}


def _not_named(count: int) -> Failure:
    said = f"the service counts {counted(count, 'answer')}, and names no file with them"
    return Failure(Fault.PROTOCOL, said, 404)


def _form(batch: Batch) -> Form | None:
    return Form(batch.form) if batch.form in {*Form} else None


def _terms(batch: Batch) -> Terms:
    """Return how the rows of a batch ask, as far as its path says it."""
    task = next((task for path, task in _PATHS.items() if batch.url.endswith(path)), Task.CHAT)
    return NO_TERMS if task is Task.CHAT else Terms(task)


def _said(remote: Remote) -> dict[str, object]:
    """Return what the journal keeps of what the service says."""
    return {
        "state": BatchState.OVER,
        "service_state": remote.said or remote.state.value,
        "ended": remote.ended,
        "completed": remote.completed,
        "failed": remote.failed,
        "output_file": remote.output_file or None,
        "error_file": remote.error_file or None,
    }


def _outcome_of_others(remote: Remote | None, *, has_come: bool) -> str:
    """Return how lines ended about which the files say nothing.

    Args:
        remote: their batch, as its service says it.
        has_come: something came of other lines: a batch that failed then was asked up to a place that only the
            service's count of answers tells.
    """
    if remote and remote.state is RemoteState.FAILED and has_come and remote.completed is None:
        return LOST
    by_state = {RemoteState.EXPIRED: EXPIRED, RemoteState.CANCELLED: CANCELLED, RemoteState.FAILED: UNSENT}
    return LOST if remote is None else by_state.get(remote.state, LOST)


def _why(batch: Batch, remote: Remote | None, sheaf: _Sheaf) -> str:
    """Return why a batch failed as a whole, and what was odd about it."""
    said = [batch.why] if batch.why else []
    if remote is None:
        said.append("it was given up: its service does not know it any more, or cannot be asked")
    said += [
        f"{each.code}: {each.message}" if each.code else each.message for each in (remote.errors if remote else ())
    ]
    said += [*sheaf.gone, *map(str, sheaf.odd.values())]
    return "; ".join(dict.fromkeys(said))[:_LONGEST_WHY]
