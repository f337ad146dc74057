"""The rules by which a plan's rows lose and get answers, one function for each.

Invariant: a rule points rows at other results, or at none; it never changes or removes a result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from batcher.equality import same_text
from batcher.input.marks import Comparison
from batcher.journal.batches import IS_LINE_OUT, OPEN
from batcher.journal.corrections import BY_HAND, LOWEST
from batcher.journal.reading import ROOT
from batcher.journal.rereading import OUTDATED
from batcher.journal.schema import ADOPTED, IN_SCOPE, waiting
from batcher.journal.scratch import BARE, OUT, SET_ASIDE
from batcher.journal.statements import Statements
from batcher.records import Source

_NOT_OK = "(SELECT id FROM results WHERE status <> 'ok')"
_ADOPTED = f"(SELECT id FROM sources WHERE model = '{ADOPTED.model}' AND base_url = '' AND params = '')"
_BY_HAND = f"(SELECT id FROM results WHERE id < 0 AND source IN {BY_HAND})"


class Least(NamedTuple):
    """What the answers of the first endpoints need to count without a second one (`--then`).

    Attributes:
        score: the least agreement or confidence.
        by_confidence: the confidence counts.
        second: ids of the sources of the second endpoints.
        were_second: ids of those that were second in an earlier run, and are not asked first now.
    """

    score: float
    by_confidence: bool
    second: frozenset[int]
    were_second: frozenset[int] = frozenset()

    @property
    def is_of_second(self) -> str:
        """The condition for a `source` that is or was second."""
        return f"source IN ({listed(self.second | self.were_second)})"

    def too_few(self, *, counts_in_vain: bool = False) -> tuple[str, str]:
        """Return the joins and the condition for a result `a` of a first endpoint that needs the second's answer.

        Errors do not, nor do answers of a person, or from files.

        Args:
            counts_in_vain: also if the second was asked, and gave no answer that can be used.
        """
        joins = f"LEFT JOIN votes v ON v.id = a.id LEFT JOIN responses s ON s.id = {ROOT.format('a.id')}"
        score = "coalesce(v.confidence, s.confidence)" if self.by_confidence else "v.for_it * 1.0 / v.answers"
        in_vain = f"SELECT 1 FROM opinions p WHERE p.result = a.id AND p.source IN ({listed(self.second)})"
        is_a_models = f"a.status <> 'error' AND a.source NOT IN {BY_HAND} AND a.source NOT IN {_ADOPTED}"
        is_below = f"(a.status <> 'ok' OR {score} IS NULL OR {score} < {float(self.score)!r})"
        is_tried = "FALSE" if counts_in_vain else f"EXISTS ({in_vain})"
        return joins, f"{is_a_models} AND NOT a.{self.is_of_second} AND {is_below} AND NOT {is_tried}"


def listed(ids: Iterable[int]) -> str:
    """Return ids as a list of SQL."""
    return ",".join(str(int(each)) for each in sorted(ids))


@dataclass(frozen=True)
class Rules:
    """The answers that a plan's rows may have.

    Attributes:
        sources: ids of the sources whose answers may be used.
        on_change: what to do with answers to earlier questions. With `reuse` a row keeps the answer that is provably
            its own, and from then on also with `abort`; with `redo` it is asked again.
        retry_failed: rows that ended as `error` or `invalid` are asked again.
        dedup: one answer may serve all rows that ask the same.
        is_limited: the table has more rows behind the plan's. They stay as they are, except for answers that the plan's
            rows need. Without a limit, rows behind the plan's are removed; their answers stay.
        samples: how many answers a row should have; a result of fewer is no result yet.
        is_redrawn: the last plan was about another sample, or this one is about a sample for the first time. Rows
            behind the plan's may then be the plan's own, at another position: one that failed stays so.
        least: what the answers of the first endpoints need to count without a second one; None: there is none.
    """

    sources: frozenset[int]
    on_change: str = "abort"
    retry_failed: bool = False
    dedup: bool = False
    is_limited: bool = False
    samples: int = 1
    is_redrawn: bool = False
    least: Least | None = None

    @property
    def is_of_pool(self) -> str:
        """The condition for a result whose source is in the pool, or a person."""
        return f"(source IN ({listed(self.sources)}) OR source IN {BY_HAND})"

    @property
    def is_usable(self) -> str:
        """The condition for a result that a row with its question may take."""
        return f"id NOT IN {OUTDATED} AND {self.is_held}"

    @property
    def is_held(self) -> str:
        """The condition for a result that a row had until now: a person may have replaced it in another (`dedup`)."""
        is_present = f"{self.is_of_pool} AND id NOT IN (SELECT id FROM superseded) AND status "
        return is_present + ("= 'ok'" if self.retry_failed else "<> 'error'")

    @property
    def is_counted(self) -> str:
        """The condition for a result that is a row's, or that a row may take."""
        return f"{self.is_held} AND (id NOT IN {OUTDATED} OR id IN (SELECT result FROM rows WHERE {IN_SCOPE}))"

    @property
    def is_spared(self) -> str:
        """The condition for a result that a row of the plan may take from a row `r` behind the plan's."""
        stays_failed = "(a.status = 'error')" if self.is_redrawn and not self.retry_failed else "FALSE"
        return f"NOT r.{IN_SCOPE} AND ({self.is_usable} OR {stays_failed})"


def set_aside(db: Statements, rows: int, *, is_all: bool) -> None:
    """Move the first rows behind all others, from `SET_ASIDE` on: the plan's rows there are other rows of the table.

    Args:
        db: has the tables of `scratch`.
        rows: how many at least.
        is_all: all rows of the last plan at least.
    """
    scope = "(SELECT scope FROM known)" if is_all else "0"
    first = f"position < max(?, {scope})"
    [free] = db.one("SELECT max(?, coalesce(max(position) + 1, 0)) FROM rows", (SET_ASIDE,))
    db.do(f"INSERT INTO renewed SELECT position FROM rows WHERE {first}", (rows,))
    db.do(f"INSERT INTO open SELECT key FROM rows WHERE {first} AND result IS NULL", (rows,))
    note_left_out(db, first, [(rows,)])
    db.do(f"DELETE FROM rows WHERE {first} AND result IS NULL", (rows,))
    db.do(f"UPDATE rows SET position = position + ? WHERE {first}", (free, rows))


def forget_set_aside(db: Statements) -> None:
    """Remove the rows that were set aside and have given up their result."""
    db.do("DELETE FROM rows WHERE position >= ? AND result IS NULL", (SET_ASIDE,))


def note_lines(db: Statements, lines: str) -> bool:
    """Note the lines of batches that have no end; return whether there are any.

    Args:
        db: has the tables of `scratch`.
        lines: the table that has them: a copy has its own.
    """
    if not db.is_any(OPEN[1:-1]):
        return False
    db.do(f"INSERT INTO lines SELECT q.id, q.position, q.key, q.source, NULL FROM {lines} q WHERE {IS_LINE_OUT}")
    db.do("CREATE INDEX temp.lines_row ON lines (position, key)")
    return db.is_any("SELECT 1 FROM lines")


def note_left_out(db: Statements, where: str, values: Iterable[tuple[int]]) -> None:
    """Note the rows that are about to be removed, or to ask something else, while a line is about them."""
    db.do_many(
        "INSERT OR IGNORE INTO left_out SELECT position, key, cells FROM rows"
        f" WHERE result IS NULL AND {where} AND (position, key) IN (SELECT position, key FROM lines)",
        values,
    )


def follow_rows(db: Statements, rules: Rules, lines: str) -> None:
    """Let the lines of batches that have no end follow their rows, in order if several rows ask the same.

    All lines about one row (`--samples`) stay together, and with `dedup` the row that is asked for others gets them
    first. A line that no row waits for stays where it is.

    Args:
        db: has the tables of `scratch`.
        rules: lines to sources that have left the pool are left out.
        lines: the table that has them.
    """
    is_homeless = f"at IS NULL AND source IN ({listed(rules.sources)})"
    homeless = f"SELECT key, position FROM lines WHERE {is_homeless}"
    kinds = [BARE, f"rows.result IS NULL AND NOT rows.{IN_SCOPE}"]
    if rules.dedup:  # those first that are asked for others
        kinds.insert(0, f"{BARE} AND rows.position IN (SELECT min(position) FROM rows WHERE {BARE} GROUP BY key)")
    for is_bare in kinds:
        free = f"{is_bare} AND rows.position NOT IN {OUT} AND rows.key IN (SELECT key FROM ({homeless}))"
        # Those whose row is where it was come first, then rows and lines in order.
        db.do(
            f"UPDATE lines SET at = position WHERE {is_homeless}"
            f" AND (position, key) IN (SELECT position, key FROM rows WHERE {is_bare})"
        )
        db.do(
            f"""
            UPDATE lines SET at = found.now FROM (
                SELECT had.key, had.position, asked.position AS now FROM (
                    SELECT key, position, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                    FROM (SELECT DISTINCT key, position FROM ({homeless}))) AS had
                JOIN (SELECT key, position, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                    FROM rows WHERE {free}) AS asked USING (key, nth)) AS found
            WHERE found.key = lines.key AND found.position = lines.position AND {is_homeless}
            """
        )
    # A line to a source that has left the pool leaves its row, which waits for another.
    left = f"SELECT position, key FROM rows WHERE {BARE}"
    db.do(
        f"UPDATE {lines} AS q SET position = moved.at FROM (SELECT id, at FROM lines WHERE at <> position"
        f" UNION ALL SELECT id, -1 - position FROM lines WHERE at IS NULL AND (position, key) IN ({left})) AS moved"
        " WHERE moved.id = q.id"
    )


def plan_for(db: Statements, rows: int) -> None:
    db.do("UPDATE scope SET rows = ? WHERE rows <> ?", (rows, rows))
    db.do("INSERT INTO open SELECT key FROM rows WHERE position >= ? AND result IS NULL", (rows,))


def remove_rows_behind(db: Statements, rows: int) -> None:
    """Remove rows that the table no longer has; other rows may get their answers."""
    _drop(db, "position >= ?", rows)
    note_left_out(db, "position >= ?", [(rows,)])
    db.do("DELETE FROM rows WHERE position >= ?", (rows,))


def retry_failed(db: Statements) -> list[int]:
    """Take the result from every row that ended as `error` or `invalid`, for good.

    Returns:
        The positions of those to which a person has given such a status.
    """
    by_hand = db.do(f"SELECT position FROM rows WHERE {IN_SCOPE} AND result IN {_BY_HAND} AND result IN {_NOT_OK}")
    positions = [position for (position,) in by_hand]
    db.do(f"UPDATE rows SET result = NULL, is_kept = NULL WHERE {IN_SCOPE} AND result IN {_NOT_OK}")
    db.do(f"INSERT INTO open SELECT key FROM moved WHERE result IN {_NOT_OK}")
    db.do(f"DELETE FROM moved WHERE result IN {_NOT_OK}")
    db.do(f"DELETE FROM given WHERE id IN {_NOT_OK}")
    return positions


def ask_for_more(db: Statements, rules: Rules) -> None:
    """Take from rows the results that are made of fewer answers than a row should have; their answers wait for others.

    Results that stay as they are: errors, a person's, those of a second endpoint, and answers to earlier questions.
    """
    if rules.samples == 1:
        return
    is_first = f"NOT {rules.least.is_of_second}" if rules.least else "TRUE"
    answers = f"(SELECT count(*) FROM opinions p WHERE p.result = a.id AND p.round = 0 AND {is_first})"
    is_of_them = "EXISTS (SELECT 1 FROM opinions p WHERE p.result = a.id AND p.round = 0 AND p.source = a.source)"
    db.do(
        f"""
        INSERT OR IGNORE INTO few SELECT a.id, v.id IS NOT NULL
        FROM (SELECT * FROM results WHERE {rules.is_counted} AND source NOT IN {BY_HAND} AND status <> 'error'
            AND {is_first}) a
        LEFT JOIN votes v USING (id) WHERE (v.id IS NULL OR {answers} < ? AND {is_of_them})
            AND {_MAY_WAIT}
        """,
        (rules.samples,),
    )
    _let_wait(db)


def ask_beyond(db: Statements, rules: Rules) -> None:
    """Take from rows the answers of the first endpoints that are not certain enough; they wait for the second's.

    Results that stay as they are: errors, a person's, answers to earlier questions, and those for which the second was
    asked in vain, unless failed rows are retried.
    """
    if rules.least is None:
        return
    joins, too_few = rules.least.too_few(counts_in_vain=rules.retry_failed)
    db.do(
        f"""
        INSERT OR IGNORE INTO few SELECT a.id, v.id IS NOT NULL
        FROM (SELECT * FROM results WHERE {rules.is_of_pool} AND id NOT IN (SELECT id FROM superseded)
            AND (id NOT IN {OUTDATED} OR id IN (SELECT result FROM rows WHERE {IN_SCOPE}))) a
        {joins} WHERE {too_few} AND {_MAY_WAIT}
        """
    )
    _let_wait(db)


_MAY_WAIT = (
    f"+a.key IN (SELECT key FROM rows WHERE {IN_SCOPE} AND is_kept IS NULL)"
    " AND a.id NOT IN (SELECT result FROM rows WHERE is_kept IS NOT NULL)"
)


def _let_wait(db: Statements) -> None:
    """Let the answers that the results in `few` are made of wait for others, and take these results from rows."""
    if not db.is_any("SELECT 1 FROM few"):
        return
    few = "(SELECT id FROM few)"
    db.do(
        """
        INSERT OR IGNORE INTO opinions (id, key, position, source, status, answer, error, round, result)
        SELECT a.id, a.key, coalesce(r.position, q.position, 0), a.source, a.status, a.answer, a.error, 0, NULL
        FROM few JOIN results a USING (id) LEFT JOIN requests q USING (id)
        LEFT JOIN (SELECT result, min(position) AS position FROM rows WHERE result IS NOT NULL GROUP BY result) r
            ON r.result = a.id
        WHERE NOT few.is_voted
        """
    )
    db.do("UPDATE opinions SET result = NULL WHERE round = 0 AND result IN (SELECT id FROM few WHERE is_voted)")
    _drop_copies(db)
    db.do(f"INSERT OR IGNORE INTO superseded {few[1:-1]}")
    db.do(f"UPDATE rows SET result = NULL WHERE result IN {few}")
    db.do(f"INSERT INTO open SELECT key FROM moved WHERE result IN {few}")
    db.do(f"DELETE FROM moved WHERE result IN {few}")


def _drop_copies(db: Statements) -> None:
    """Remove answers that wait beside the same answer, from which they were copied.

    Rows that share a result each have its answers once one of them was corrected and that was taken back. When all of
    them wait, they are one answer again.
    """
    copies = """
        SELECT p.id FROM opinions p JOIN rereads w USING (id) JOIN opinions o ON o.id = w.root
        WHERE p.id < 0 AND p.result IS NULL AND o.result IS NULL AND p.round = o.round
        AND (p.key, p.status, p.answer, p.error) = (o.key, o.status, o.answer, o.error)
    """
    db.do(f"CREATE TEMP TABLE copies AS {copies}")
    for table in ("opinions", "rereads"):
        db.do(f"DELETE FROM {table} WHERE id IN (SELECT id FROM copies)")
    db.do("DROP TABLE copies")


def few_answers(db: Statements, rules: Rules) -> tuple[int, int, int]:
    """Return how many rows that are asked have answers already, how many of them have enough, and what the others lack.

    Those that have enough have answers that are not certain enough, or whose last process ended before they counted.
    """
    is_first = f"AND NOT {rules.least.is_of_second}" if rules.least else ""
    answers = f"SELECT key, count(*) AS answers FROM opinions p WHERE {waiting('p')} AND {rules.is_of_pool} {is_first}"
    if not db.is_any("SELECT 1 FROM opinions WHERE result IS NULL"):
        return 0, 0, 0
    rows, enough, missing = db.one(
        f"""
        SELECT coalesce(sum(rows), 0), coalesce(sum(min(answers / ?, rows)), 0),
            coalesce(sum(max(rows * ? - answers, 0)), 0) FROM (
            SELECT key, count(*) AS rows FROM rows WHERE {BARE} AND position NOT IN (SELECT position FROM same)
            AND position NOT IN {OUT}
            AND key IN (SELECT key FROM opinions WHERE result IS NULL) GROUP BY key)
            JOIN ({answers} GROUP BY key) USING (key)
        """,
        (rules.samples, rules.samples),
    )
    return int(rows), int(enough), int(missing)


def drop_answers_of_sources_that_left(db: Statements, rules: Rules) -> None:
    """Take from rows the answers whose source is not in the pool; errors and kept answers stay."""
    left = f"(SELECT id FROM results WHERE status <> 'error' AND NOT {rules.is_of_pool})"
    _drop(db, f"{IN_SCOPE} AND result IN {left} AND is_kept IS NULL")


def redo_kept_answers(db: Statements) -> None:
    """Take from rows the answers to earlier questions that they keep."""
    _drop(db, f"{IN_SCOPE} AND is_kept IS NOT NULL")


def _drop(db: Statements, where: str, *values: int) -> None:
    """Record which rows lose their result; the answers are then free for other rows."""
    db.do(
        "INSERT OR IGNORE INTO moved SELECT position, result, key, cells, is_kept FROM rows"
        f" WHERE result IS NOT NULL AND {where}",
        values,
    )


def clear_dropped(db: Statements) -> None:
    db.do("UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT position FROM moved)")


def return_corrections(db: Statements, comparison: Comparison) -> None:
    """Give rows that have moved the answers by hand that are their own: rows with the same question may differ.

    Such a row gives up the answer that it has at its new place: it is another row's.
    """
    if not db.is_any(f"SELECT 1 FROM results WHERE id IN {_BY_HAND}"):
        return
    mark = comparison.sql((comparison.before or comparison.now).columns)
    had = (
        f"SELECT m.result, m.key, {mark} AS mark, m.position, NULL AS spared_by FROM moved m"
        f" JOIN results a ON a.id = m.result AND a.key = m.key WHERE m.result IN {_BY_HAND}"
        f" UNION ALL SELECT r.result, r.key, {mark}, r.position, r.position FROM rows r"
        f" JOIN results a ON a.id = r.result AND a.key = r.key WHERE NOT r.{IN_SCOPE} AND r.result IN {_BY_HAND}"
    )
    if not db.is_any(had):
        return
    db.do(
        f"""
        INSERT OR IGNORE INTO moved SELECT position, result, key, cells, is_kept FROM rows
        WHERE {IN_SCOPE} AND result NOT IN {_BY_HAND} AND (key, {mark}) IN (SELECT key, mark FROM ({had}))
        """
    )
    clear_dropped(db)
    db.do(
        f"""
        INSERT INTO given SELECT asked.position, had.result, had.spared_by, NULL FROM (
            SELECT position, key, {mark} AS mark,
                row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
            FROM rows WHERE {BARE}) AS asked
        JOIN (SELECT *, row_number() OVER (PARTITION BY key, mark ORDER BY position) AS nth
            FROM ({had})) AS had USING (key, mark, nth)
        """
    )
    _hand_out(db)


def lost_corrections(db: Statements) -> list[int]:
    """Return where the rows stood whose answer by hand no row has got, although rows have no result now."""
    found = db.do(
        f"SELECT position FROM lost WHERE result IN {_BY_HAND} AND NOT is_spared"
        " AND result NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)"
        f" AND EXISTS (SELECT 1 FROM rows WHERE {BARE})"
    )
    return [position for (position,) in found]


def reuse_by_key(db: Statements, rules: Rules) -> None:
    """Give rows the unused answers to their questions, in order, whatever the answers' former positions.

    Unused answers are those of rows that were moved, changed or removed, and of rows behind a limit; none that a person
    has replaced. A row that has only moved stays an `error` if it was one.
    """
    found = db.do(
        f"""
        INSERT INTO free
        SELECT key, row_number() OVER (
            PARTITION BY key ORDER BY status = 'error', spared_by IS NOT NULL, status <> 'ok', id, spared_by),
            id, spared_by
        FROM (
            SELECT a.key, a.status, a.id, NULL AS spared_by FROM moved m JOIN results a ON a.id = m.result
            WHERE ({rules.is_held} OR status = 'error') AND a.id NOT IN (SELECT id FROM given)
            UNION ALL
            SELECT key, status, id, NULL FROM results WHERE {rules.is_usable}
            AND id NOT IN (SELECT result FROM moved)
            AND id NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)
            UNION ALL
            SELECT a.key, a.status, a.id, r.position FROM rows r JOIN results a ON a.id = r.result
            WHERE {rules.is_spared})
        """
    )
    if not found.rowcount:
        return
    db.do(
        f"""
        INSERT INTO given SELECT asked.position, free.id, free.spared_by, NULL FROM (
            SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
            FROM rows WHERE {BARE}) AS asked
        JOIN free USING (key, nth)
        """
    )
    _hand_out(db)


def move_kept_answers(db: Statements, comparison: Comparison, rules: Rules) -> None:
    """Let rows that keep an answer to an earlier question, and have only moved, keep it at their new position."""
    had = "SELECT position, result, key, is_kept, cells, NULL AS spared_by FROM moved WHERE is_kept IS NOT NULL"
    if rules.is_redrawn:
        had += (
            " UNION ALL SELECT position, result, key, is_kept, cells, position FROM rows"
            f" WHERE NOT {IN_SCOPE} AND is_kept IS NOT NULL"
        )
    if not db.is_any(had):
        return
    mark = comparison.sql(comparison.asked_ever)
    db.do(
        f"""
        INSERT INTO given SELECT asked.position, kept.result, kept.spared_by, kept.is_kept FROM (
            SELECT position, key, {mark} AS mark,
                row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
            FROM rows WHERE {BARE}) AS asked
        JOIN (SELECT result, key, is_kept, spared_by, {mark} AS mark,
                row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
            FROM ({had})) AS kept USING (key, mark, nth)
        """
    )
    _hand_out(db)


def place_offered(db: Statements) -> None:
    """Find the rows without a result whose question an offered result answers, in order.

    An offered result serves one row: those that serve one already come first among those that answer its question. One
    that a chunk file has too takes its place, because it has more than a text.
    """
    if not db.is_any("SELECT 1 FROM offered"):
        return
    db.do("CREATE INDEX temp.offered_key ON offered (key)")
    db.do(
        f"""
        INSERT OR REPLACE INTO found SELECT asked.position, 'ok', o.answer, '', o.seal, o.id FROM (
            SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth FROM rows
            WHERE {BARE}) AS asked
        JOIN (SELECT id, key, answer, seal, row_number() OVER (PARTITION BY key ORDER BY id) - (
                SELECT count(*) FROM results a JOIN responses s ON s.id = a.id
                WHERE a.key = offered.key AND a.source = ?) AS nth
            FROM offered) AS o USING (key, nth)
        LEFT JOIN found f ON f.position = asked.position WHERE f.seal IS NULL OR f.seal = o.seal OR f.status = 'error'
        """,
        (source_id(db, ADOPTED),),
    )


def adopt_from_files(db: Statements, reading: int | None) -> int:
    """Give rows without a result the results in chunk files; return the number of these rows.

    Args:
        db: has the tables of `scratch`.
        reading: the id of what they were read as.
    """
    if not db.is_any("SELECT 1 FROM found"):
        return 0
    source = source_id(db, ADOPTED)
    [lowest] = db.one(LOWEST)
    db.do(
        f"""
        INSERT INTO given SELECT position, ? - row_number() OVER (ORDER BY position), NULL, NULL
        FROM found JOIN rows USING (position) WHERE {BARE}
        """,
        (lowest,),
    )
    db.do(
        "INSERT INTO results (id, key, source, status, answer, error, seal, reading)"
        " SELECT g.id, r.key, ?, f.status, f.answer, f.error, f.seal, ?"
        " FROM given g JOIN found f USING (position) JOIN rows r USING (position) WHERE g.id < ?",
        (source, reading, lowest),
    )
    db.do(
        "INSERT INTO main.responses (id, finish_reason, is_cut, model, reasoning, body, request_id)"
        " SELECT g.id, o.finish_reason, o.is_cut, o.model, '', o.body, o.request_id FROM given g JOIN found f"
        " USING (position) JOIN offered o ON o.id = f.offered WHERE g.id < ?",
        (lowest,),
    )
    _hand_out(db)
    [adopted] = db.one("SELECT count(*) FROM given WHERE id < ?", (lowest,))
    return int(adopted)


def share_answers(db: Statements, rules: Rules) -> None:
    """Give rows an answer that another row with the same question has already.

    A person's is not given to rows whose own answers wait for others: only the row that was corrected has it.
    """
    waits = f"EXISTS (SELECT 1 FROM opinions p WHERE p.key = a.key AND p.round = 0 AND {waiting('p')})"
    db.do(
        f"""
        INSERT INTO given SELECT position, id, NULL, NULL FROM rows
        JOIN (SELECT key, coalesce(min(iif(status = 'ok', id, NULL)), min(id)) AS id
            FROM (SELECT * FROM results WHERE {rules.is_usable}) a
            WHERE NOT (a.id IN {_BY_HAND} AND {waits}) GROUP BY key) USING (key) WHERE {BARE}
        """
    )
    _hand_out(db)


def keep_own_answers(db: Statements) -> None:
    """Let rows keep the answers to their earlier questions that are provably their own."""
    db.do("DELETE FROM given")
    db.do(
        "INSERT INTO given SELECT p.position, l.result, iif(l.is_spared, l.position, NULL),"
        " kept(p.proof, r.key, l.result) FROM pairs p JOIN lost l ON l.id = p.lost JOIN rows r USING (position)"
        " WHERE p.proof IS NOT NULL"
    )
    _hand_out(db)


def prefer_ok_answers(db: Statements, rules: Rules) -> None:
    """Give failed rows the `ok` answer to their question, if another row got one."""
    db.do(
        f"""
        UPDATE rows SET result = better.id FROM (
            SELECT key, min(id) AS id FROM results WHERE {rules.is_usable} AND status = 'ok'
            GROUP BY key) AS better
        WHERE better.key = rows.key AND rows.{IN_SCOPE} AND rows.is_kept IS NULL AND rows.result IN {_NOT_OK}
        """
    )


def choose_who_asks(db: Statements, *, dedup: bool) -> None:
    """With `dedup`, let one row be asked for all rows with its question, the first; otherwise each is asked."""
    if db.is_any("SELECT 1 FROM same"):
        db.do("DELETE FROM same")
    if dedup:
        db.do(
            f"""
            INSERT INTO same SELECT position, leader FROM (
                SELECT position, min(position) OVER (PARTITION BY key) AS leader FROM rows WHERE {BARE})
            WHERE position > leader
            """
        )


def _hand_out(db: Statements) -> None:
    """Point rows at the results given to them; a row behind the limit loses a result that it gave up."""
    db.do(
        "UPDATE rows SET result = g.id, is_kept = g.is_kept FROM given g WHERE g.position = rows.position"
        " AND rows.result IS NULL"
    )
    db.do(
        "UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT spared_by FROM given)"
        f" AND NOT {IN_SCOPE}"
    )


def source_id(db: Statements, source: Source) -> int:
    """Return the id of a source; a new source gets a new id. Equal numbers in its parameters are equal."""
    known = db.do("SELECT id, params FROM sources WHERE model = ? AND base_url = ?", source[:2]).fetchall()
    for number, params in known:
        if same_text(params, source.params):
            return int(number)
    db.do("INSERT INTO sources (model, base_url, params) VALUES (?, ?, ?)", source)
    [number] = db.one("SELECT id FROM sources WHERE model = ? AND base_url = ? AND params = ?", source)
    return int(number)
