"""The journal's file: its tables and versions, and the conversion of texts and errors of SQLite.

Invariant: a file that is not ours, is newer or is damaged is refused before anything is written to it.

The tables are a contract: other programs may read them with SQLite alone, also while a run writes. For all tables:

- A moment is a REAL: seconds since 1970-01-01 00:00 UTC.
- Money is an INTEGER in nano-dollars: 1,000,000,000 are one US dollar.
- Tokens are model tokens, as the service counts them; a number above 2^24 counts as not reported.
- A text that UTF-8 cannot hold, because of lone surrogates, is a BLOB: its UTF-8 with three bytes for each surrogate
  (Python's `surrogatepass`). Columns that may hold such a BLOB are marked with an asterisk.
- The meaning of NULL is given at each column. A column without a note about NULL has no NULL, except that a journal
  begun by version 1 has NULL in columns that later versions added.

The present result of each input row: `rows` joined with `results` on `results.id = rows.result`, for
`position < (SELECT rows FROM scope)`, in the order of `position`.

rows: the question of each row of the input, and the result that answers it
    position           INTEGER  its place in the run, from 0; primary key. It is the place in the input, and with
                                `--sample` the place among the rows drawn, which keep the input's order
    key                BLOB     16 bytes, a hash of its question: messages and request parameters (`batcher.input.key`)
    result             INTEGER  `results.id`; NULL: it has no result yet
    cells              BLOB     marks that tell the row from others: 4 bytes for the names of the table's columns, then
                                8 for each cell, at most 62 times (`batcher.input.marks`); NULL: version 1 wrote it
    is_kept            INTEGER  NULL: the result answers the question in `key`. A BLOB: the row keeps the answer to an
                                earlier question (`--on-change reuse`); its first byte says how that is known to be the
                                row's own (`c`: the same columns, `i`: the same id, `o`: an older batcher decided it),
                                8 more bind key and result together (`batcher.journal.entries.kept`). 1: an older
                                batcher decided it

scope: one line
    rows               INTEGER  how many rows, from the first, the last run was about; `rows` may hold more, which
                                `--limit` or `--sample` left out. From position 2^40 on, it holds rows whose positions
                                are those of other rows in the last run

same: rows that are not sent, because an earlier row has the same question (`--dedup`); as of the last run's start
    position           INTEGER  `rows.position`; primary key
    leader             INTEGER  `rows.position` of the row that is asked; its result is then that of both

results: every answer, and every error that ended a row; a line is never changed or removed
    id                 INTEGER  `requests.id` of the request that brought it; negative: it was adopted from a chunk
                                file, or a person gave it, or it is an earlier answer that was read again or that a
                                person brought back (`rereads`); primary key
    key                BLOB     16 bytes, of the question that it answers; see `rows.key`
    source             INTEGER  `sources.id`: its origin
    status             TEXT     `ok`; `invalid`: answered, but not as asked for; `error`: no answer
    answer             TEXT*    the answer, without the model's thoughts; with `--labels` the label, if it is `ok`;
                                with `--task embedding` the vector: its numbers as little-endian 32-bit floats, in
                                base64; empty if there is none
    error              TEXT*    why the row is `invalid` or `error`; empty if it is `ok`
    seal               BLOB     8 bytes, BLAKE2b of key, status, NUL, answer, NUL, error, by which `batcher verify` sees
                                a change; NULL: version 1 wrote it
    reading            INTEGER  `readings.id`: what it was read as; NULL: as it came, or before version 6

readings: what answers were read as; unique in both columns but the id
    id                 INTEGER  primary key
    shape              TEXT     the labels or the schema as JSON (`shape` in `runs.question`)
    reader             INTEGER  version of the reader; a higher one may read a text otherwise

rereads: results that took the place of others: answers that were read again, for other labels, for another schema or by
a newer reader; corrections by hand; and answers of the model that people brought back (`corrections.is_undo`)
    id                 INTEGER  `results.id` of the new result, or `opinions.id` of one of its answers; primary key
    root               INTEGER  `results.id` of the model's answer, or its `opinions.id`; what came with it is in
                                `requests` and `responses` under this id
    before             INTEGER  `results.id` that it replaces: the root, or the result that replaced it before

corrections: answers that people gave rows, or took back; a line is never changed or removed, and a row may have any
number of them. What each replaces is in `rereads.before`. Corrections in chunk files have no line before version 9
    id                 INTEGER  `results.id` of the new result: of a correction the person's, whose source is `corrected
                                by hand`; of one that was taken back the model's answer again, with its source; primary
                                key
    at                 REAL     when
    who                TEXT*    the name of the person; empty: not known
    why                TEXT*    what the person says about it; may be empty
    origin             TEXT*    the name of the chunk file that had it; `review`: the page (`batcher review`)
    is_undo            INTEGER  1: it brings back what was there before; else 0
    was_kept           BLOB     `rows.is_kept` of the row before; NULL: as there

responses: what came with an answer besides its text; an answer has no line if version 4 or an older one wrote it
    id                 INTEGER  `results.id`; primary key
    finish_reason      TEXT     why the model stopped, such as `stop` or `length`; NULL: the service did not say
    is_cut             INTEGER  1: the answer was cut off at the most tokens that it may have; else 0
    model              TEXT     the model that answered, as the service names it; empty if it does not
    reasoning          TEXT*    what the model thought before it answered, also if that came in the answer's text; empty
                                if nothing is known; a JSON list if the request asked for several answers
    body               BLOB     the response's body as it came, without API keys, compressed (zlib, RFC 1950); NULL: the
                                caller of a LangChain model does not see it, the API key came in it in pieces, or it is
                                too large
    text               TEXT*    the answer as the model wrote it, without thoughts; NULL: `results.answer` is that text
    form               TEXT     how the answer was asked for: `choice`, `strict`, `schema`, `json` or `prompt`; NULL: as
                                it comes, or before version 6
    request_id         TEXT     what the service calls the answer; empty if it does not; NULL: before version 6
    confidence         REAL     how likely the model finds its label, from 0 to 1, by the log-probabilities of its
                                tokens (`--with confidence`); NULL: not known
    tier               TEXT     the service tier that answered, as the service names it; `batch`: it came with a batch;
                                empty: the service did not say; NULL: before version 10

opinions: answers that are no result themselves: several answers to one question (`--samples`), of which the row's
result is made; the first endpoint's (`--then`); and answers to a question that was asked again (`--repeat-sample`)
    id                 INTEGER  `requests.id` of the request that brought it; of an answer that was a result before its
                                row was asked for more, `results.id`; of one that was read again a number of its own,
                                below 0 (`rereads.id`); primary key
    key                BLOB     16 bytes, of the question; see `rows.key`
    position           INTEGER  the row's position at that time; see `rows.position`
    source             INTEGER  `sources.id`: its origin
    status             TEXT     as in `results`, as it was read when it came
    answer             TEXT*    as in `results`
    error              TEXT*    as in `results`
    round              INTEGER  0: it counts for the row's result; 1: it repeats a question that has its result
    result             INTEGER  `results.id` of the result that it belongs to; NULL: that is not there yet. Of round 1
                                the one that the row had then

votes: results that are made of several answers, or of which the first endpoint's are known
    id                 INTEGER  `results.id`; primary key
    answers            INTEGER  how many answers were asked for and came, of the endpoints that were asked first
    for_it             INTEGER  how many of them are the one that most agree on, which with `--then` may not be the
                                result
    is_tied            INTEGER  1: another answer had as many, and came later; else 0
    confidence         REAL     the mean of `responses.confidence` of those `for_it`; NULL: not known

partials: what had come of streamed answers that were cut off; none of them is an answer, and their rows are asked again
    id                 INTEGER  `requests.id`, of a request without an answer; primary key. It may have no end, if
                                batcher was stopped meanwhile
    at                 REAL     when it was cut off
    why                TEXT*    why, in words
    text               TEXT*    what had come of the answer, without the model's thoughts; its first 2^18 characters. A
                                JSON list if the request asked for several answers
    reasoning          TEXT*    what had come of the model's thoughts; its first 2^18 characters
    characters         INTEGER  of text and reasoning, as they came
    prompt_tokens      INTEGER  tokens of the question, as the service had reported them by then; NULL: it had not
    completion_tokens  INTEGER  tokens of the answer until then; NULL: as for `prompt_tokens`

requests: every attempt at a row, recorded before it left; a line without an end is in flight, or was when the process
ended, or is in a batch that is not over (`sent_in`). Rows whose embeddings are asked for together share one request: it
has a line for each of them
    id                 INTEGER  from 1; a gap is a request that did not leave, because the disk was full, or ids that
                                were reserved for batches (`events`); primary key
    run                INTEGER  `runs.id`: the process that sent it
    endpoint           INTEGER  the endpoint's place in that process's pool, from 0 (`pool` in `runs.question`)
    source             INTEGER  `sources.id`: the source that it asked
    position           INTEGER  the row's position at that time; see `rows.position`. While a batch with the request is
                                not over, it follows the row if a later run finds that at another position; nothing else
                                that is recorded of a request is changed
    key                BLOB     16 bytes, of the question; see `rows.key`
    sent               REAL     when it was about to leave; of a batch when that was made
    ended              REAL     when it ended; of a batch when that was read; NULL: it has no end
    outcome            TEXT     `answered`; `unfit`: answered, but not as asked, and the row was sent once more; `too
                                large`: answered, with more than the journal or a CSV file can hold; `unsent`: it did
                                not leave after all; `no capacity`: its service tier had none, and it cost nothing; an
                                HTTP status such as `429`; or `timeout`, `connection`, `protocol`, `mixed up` (another
                                request's response), `too long` (a response of more bytes than allowed), `other`;
                                `hedged`: another request about its row was answered first (`--hedge`), and this one was
                                cancelled; `worker lost`: it was out at a worker that was lost (`--ray`), and its row is
                                asked again. Of a batch also: `expired`, `cancelled`: the service did not get to it;
                                `lost`: the batch is over, and the service said nothing about it. NULL: it has no end
    prompt_tokens      INTEGER  tokens of the question; NULL: the service did not say, or there was no answer
    completion_tokens  INTEGER  tokens of the answer, as billed, reasoning included; NULL: as for `prompt_tokens`
    cached_tokens      INTEGER  those of `prompt_tokens` that came from the service's cache; NULL: it has no end, or
                                version 1 wrote it
    reasoning_tokens   INTEGER  those of `completion_tokens` that the model thought with; NULL: as for `cached_tokens`
    cost               INTEGER  nano-dollars. Answered: what it cost, at most if the service named no tokens. Not
                                answered, or no end: what it may cost at most, 0 if it cannot be billed. NULL: the
                                price, or the number of tokens, is not known, or version 1 wrote it
    prompt_most        INTEGER  tokens that the question has at most; NULL: nothing bounds them, or before version 3
    answer_cost        INTEGER  nano-dollars, the part of the bound on the cost that does not depend on the question's
                                length; NULL: no price is known, the two parts cannot be told apart, several rows share
                                the request, or before version 3
    batch              INTEGER  `requests.id` of the first of the lines that are one request, itself included; NULL: the
                                row has the request alone, or before version 7. Tokens and costs are divided among these
                                lines, so that their sums are exact. It has nothing to do with `batches`
    sent_in            INTEGER  `batches.id` of the batch that it is a line of; NULL: it was sent by itself, or before
                                version 10. Only such a line may be answered when its row has a result: then the answer
                                is in `results`, and no row points at it

batches: the jobs of services' batch APIs, each a file of requests
    id                 INTEGER  from 1; primary key
    run                INTEGER  `runs.id`: the process that made it
    endpoint           INTEGER  the endpoint's place in that process's pool; see `requests.endpoint`
    source             INTEGER  `sources.id`: the source that it asks
    name               TEXT     16 random hexadecimal digits: in the metadata of the batch and in the name of its file
    made               REAL     when it was recorded, with all its requests, before anything of it left
    state              TEXT     `made`; `uploading`: its file is about to go up; `uploaded`; `creating`: the batch is
                                about to be created; `sent`: the service has it; `over`: the service is done with it,
                                and what came is being read; `done`: each of its requests has an end; `dropped`: it
                                never came to be, and its requests are `unsent`
    url                TEXT     the path that its requests ask, such as `/v1/chat/completions`
    form               TEXT     how its answers are asked for (see `responses.form`); empty: as they come
    requests           INTEGER  how many it has
    bytes              INTEGER  the size of its file
    tokens             INTEGER  of its questions, as estimated
    sha256             BLOB     32 bytes, of its file
    input_file         TEXT     what the service calls the file; NULL: it is not known yet
    service_id         TEXT     what the service calls the batch; NULL: as for `input_file`
    service_state      TEXT     how the service said last that the batch is doing, in its words; empty: it did not
    submitted          REAL     when it was about to be created, by our clock; NULL: not yet
    expires            REAL     when the service gives it up; NULL: it did not say
    ended              REAL     when it was over; NULL: it is not
    completed          INTEGER  requests that the service counts as answered; NULL: it did not say
    failed             INTEGER  requests that the service counts as failed; NULL: it did not say
    output_file        TEXT     what the service calls the file with the answers; NULL: there is none, or not yet
    error_file         TEXT     what the service calls the file with the failures; NULL: as for `output_file`
    why                TEXT*    why the batch as a whole failed, and what was odd about it; may be empty

sources: the origins of answers; unique in all columns but the id
    id                 INTEGER  primary key
    model              TEXT     the model's name; `adopted from files`: a chunk file without a journal had the answer,
                                or a results file of an older script (`--adopt`); `corrected by hand`: a person gave it
    base_url           TEXT     the service's base URL, or the endpoint's name if it has one (a name has no slash);
                                empty: the chat model's own, or adopted
    params             TEXT     the endpoint's own request parameters as JSON with sorted keys, or empty

chunks: the chunk files
    start              INTEGER  position of the first row, the number in the file's name; primary key
    rows               INTEGER  how many rows it holds; 0: it is about to be written for the first time
    origin             BLOB     16 bytes, a hash of all that it was made from: columns, cells, keys and results' ids;
                                empty: it was adopted as it is, or is about to be written for the first time. 8 bytes
                                more: rows were corrected on the page since it was written; they are, as a big-endian
                                number, minus the highest `corrections.id` that it lacks, and lower ones are later
    sha256             BLOB     32 bytes, of the file as it was written, or as it was when its corrections were read;
                                empty: it is about to be written, and a copy is kept of a file that is there

runs: every process that worked on this keyword
    id                 INTEGER  from 1; primary key
    host               TEXT     name of the machine
    pid                INTEGER  process id on it
    started            REAL     when its plan was made
    ended              REAL     when it ended; NULL: it is at work, or was killed
    outcome            TEXT*    `done`; else why it stopped; NULL: as for `ended`
    chunk_size         INTEGER  rows of a chunk file
    question           TEXT     what it asked, and whom, as JSON: `prompt_option`, `prompt`, `system`, `params`,
                                `sources` and `pool` (each source as model, base URL or name, params; `pool` in the
                                order of the endpoints), `task` (not there for a chat), `npy` (true: the vectors are
                                also in a file of NumPy; else not there), `samples` (how many answers a row should have;
                                not there for one), `shape` (the labels or the schema that answers
                                must fit, as it is a part of the keys; not there without them), `reader` (version of the
                                reader; as `shape`), `examples` (in the prompts; not there without them: `source`, their
                                table; `of`, its different examples; `held`, each with its `row` in that table, from 0,
                                its `messages` and a hash of its question; `instead`, for each that is stated, in order,
                                the place in `held` of its substitute, or null; `keys` in hex: the rows of the input
                                that ask what one in `held` asks, which therefore are no gold), `named` (name and base
                                URL of each endpoint with a name; not there if none has), `columns` (that the prompt
                                reads), `table` (all columns), `answer_column`, `with` (what its files hold beside the
                                answers), `limit`, `sample` (null, or `rows` drawn at random `of` the table's rows),
                                `encoding` (of its files), `format` and `types` (of Parquet files: `parquet`, and the
                                Arrow schema of the input's columns, serialized, in base64; not there for CSV), `gold`
                                (the column with right answers; not there without one: its name in `column`; `drawn`,
                                how its rows were chosen: `all`, `random` or `unknown`; with labels `texts`, the label
                                for each text in it, empty for `?`, if there are at most 10,000), `input`
                                (the paths of the table; null: it was none), `sheet`, `input_encoding`, `separator`; an
                                older batcher wrote only some of them

draws: the samples that were drawn to be labelled by hand; a larger one holds the ones before it
    id                 INTEGER  from 1; primary key
    at                 REAL     when
    design             TEXT     `random`: of all rows; `per label`: of the rows of each label of the model
    rows               INTEGER  how many it asked for, of all or of each label
    seed               INTEGER  decides, with the keyword and a row's cells, in which order rows are drawn
                                (`batcher.quality.drawing`)
    strata             TEXT     JSON, a list of [label, rows, drawn, below]: the rows with each label of the model, how
                                many of them this draw took, and the highest number among those, from 0 to 1: rows have
                                numbers, and a draw takes the lowest. Label is null for rows without one. Of `random` a
                                single one, whose label is null

drawn: the rows of the samples
    id                 INTEGER  its place in the order of the sample's file, which is random; primary key
    draw               INTEGER  `draws.id` of the first draw that has it
    position           INTEGER  the row's position then; see `rows.position`
    key                BLOB     16 bytes, of the row's question then
    cells              BLOB     the marks of the row; see `rows.cells`
    label              TEXT*    the model's label at the latest draw; NULL: the row had none
    chance             REAL     of being drawn, over all draws

gold: what people say that the right label of a drawn row is; a line is never changed or removed, the latest counts
    id                 INTEGER  primary key
    drawn              INTEGER  `drawn.id`
    at                 REAL     when it was read
    gold               TEXT*    the label, as it is in the list of labels; without labels the text; with a schema JSON,
                                an object with the text of each field that has one; empty: it was taken back
    origin             TEXT*    the name of the file that had it; `keyboard`: it was typed (`batcher sample --label`);
                                `review`: on the page (`batcher review`)
    who                TEXT*    the name of the person; NULL: not known, or before version 9
    note               TEXT*    what the person says about it; NULL: nothing, or before version 9

events: what else happened in a run
    id                 INTEGER  in the order in which it happened; primary key
    run                INTEGER  `runs.id`
    at                 REAL     when
    kind               TEXT     `paused`: an endpoint answers nothing; `resumed`: it answers again; `implausible usage`:
                                a service says that an answer used more tokens than any call can; `prompt overhead`:
                                answers changed the bound on prompts; `service tier`: a request was served in a tier
                                that it did not ask for; `joined`: a result is about to be in its place; `limited by
                                hand`, `paused by hand`, `resumed by hand`, `cancelled by hand`, `refused by hand`: what
                                people asked of the run, mostly while it worked; `read as`: how answers in batches are
                                read, besides the labels or the schema, as JSON; `decided by hand`, `overtaken by hand`:
                                what the page asked of it, which was done, or not because the row had another result;
                                `ignored`: an endpoint accepts a request parameter and does not do what it asks; `left
                                out`: it refuses one
                                that batcher had added, and is asked without it; `corrected by hand`: a person gave a
                                row another answer, after this run or while it worked; `workbook read`: its corrections
                                are in the journal; `planned`: what the process expected before its first request;
                                `due`: by when it shall be finished (`--by`, `--within`); `forecast`: what it expected
                                of that, each time that this changed;
                                `numbers reserved`: ids of requests, which are for batches or stay free
    subject            TEXT*    the endpoint; of `joined` and `workbook read` the file's name; of `corrected by hand`
                                the correction's `results.id`; of `numbers reserved` the first and the last id, such as
                                `7-10006`; of the other kinds by hand the id of the request
    detail             TEXT*    why, or what the service said; may be empty. `joined`, `workbook read`: the file's
                                SHA-256, in hexadecimal. `corrected by hand`: `results.id` of what it replaces; empty:
                                the row had no result. `decided by hand`: `results.id` of the new result, empty for hand
                                labels; `overtaken by hand`: `results.id` of the row's. The other kinds by hand: what
                                changed, or why it was refused.
                                `prompt overhead`: JSON, a hash of all that the overhead depends on (`of`), and the
                                tokens that prompts have at `least` and at `most` beside the rows' own text
                                (`batcher.money.overhead`). `service tier`: JSON, the `source` and the `tier`.
                                `ignored`: the parameter, and what came instead; `left out`: the parameter
                                `planned`: JSON, of the requests that were left: `rows`, `requests` (null if rows share
                                them), `prompt_tokens`, `completion_tokens`, `cost_usd` and `seconds` (null if they
                                cannot be known), `from_rows` (the first rows, by whose length they are estimated);
                                `budget_usd` (null without one); `versions` (of batcher and what it uses, by name);
                                `input` (the files, each with `path`, `sha256`, `bytes` and `modified`, a moment, as far
                                as they could be had) and
                                `inputs_left` (how many more there are). `due`: JSON, `at`, a moment; its `subject` is
                                the time as it was given. `forecast`: JSON, `due` and `end` (moments; `end` is when the
                                last row is expected, null if that is not known), `state` (`in time`, `by batch`: only
                                if batches come back in time, `late`), and `text`, the same in words

`PRAGMA application_id` is 0x62746368 ("btch"). `PRAGMA user_version` holds the version of the tables in its lowest 8
bits, and above them the generation, a number that each commit raises (see `access`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batcher.errors import KeywordBusy, OutputError, output_error
from batcher.records import Source

VERSION = 10
_OLDEST_READ = 3
"""The oldest version that can be read without being brought up to date: later ones only renamed and added."""

_APPLICATION_ID = 0x62_74_63_68  # "btch": distinguishes our files from other SQLite files

# SQLite's `user_version`, a number in the first page of the file, holds the version and, above it, the generation.
_VERSION_BITS, _VERSION_MASK = 8, 0xFF
GENERATIONS = 2**23 - 1
"""The number of generations; 1 follows the last one. A file that batcher has not given one yet has 0."""

ADOPTED = Source("adopted from files", "")
"""The source of answers that were found in chunk files without a journal, or in results files of older scripts: their
real source is unknown."""
PERSON = Source("corrected by hand", "")
"""The source of answers that people gave."""


_FIRST = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL,
    ended REAL, outcome TEXT, chunk_size INTEGER NOT NULL, question TEXT NOT NULL);
CREATE TABLE givers (id INTEGER PRIMARY KEY, model TEXT NOT NULL, base_url TEXT NOT NULL, params TEXT NOT NULL,
    UNIQUE (model, base_url, params));
CREATE TABLE requests (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, endpoint INTEGER NOT NULL,
    giver INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL, sent REAL NOT NULL, ended REAL,
    outcome TEXT, prompt_tokens INTEGER, completion_tokens INTEGER);
CREATE TABLE results (id INTEGER PRIMARY KEY, key BLOB NOT NULL, giver INTEGER NOT NULL, status TEXT NOT NULL,
    answer TEXT NOT NULL, error TEXT NOT NULL);
CREATE TABLE rows (position INTEGER PRIMARY KEY, key BLOB NOT NULL, result INTEGER);
CREATE TABLE chunks (start INTEGER PRIMARY KEY, rows INTEGER NOT NULL, origin BLOB NOT NULL, sha256 BLOB NOT NULL);
"""
_SECOND = """
ALTER TABLE requests ADD COLUMN cached_tokens INTEGER;
ALTER TABLE requests ADD COLUMN reasoning_tokens INTEGER;
ALTER TABLE requests ADD COLUMN cost INTEGER;
ALTER TABLE results ADD COLUMN seal BLOB;
ALTER TABLE rows ADD COLUMN cells BLOB;
ALTER TABLE rows ADD COLUMN is_kept INTEGER;
CREATE TABLE scope (rows INTEGER NOT NULL);
INSERT INTO scope SELECT count(*) FROM rows;
CREATE TABLE same (position INTEGER PRIMARY KEY, leader INTEGER NOT NULL);
CREATE INDEX same_leader ON same (leader);
CREATE TABLE events (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, detail TEXT NOT NULL);
"""
_THIRD = """
ALTER TABLE requests ADD COLUMN prompt_most INTEGER;
ALTER TABLE requests ADD COLUMN answer_cost INTEGER;
"""
_FOURTH = """
ALTER TABLE givers RENAME TO sources;
ALTER TABLE requests RENAME COLUMN giver TO source;
ALTER TABLE results RENAME COLUMN giver TO source;
UPDATE runs SET question = renamed(question);
"""
_FIFTH = """
CREATE TABLE responses (id INTEGER PRIMARY KEY, finish_reason TEXT, is_cut INTEGER NOT NULL, model TEXT NOT NULL,
    reasoning TEXT NOT NULL, body BLOB);
CREATE INDEX responses_cut ON responses (id) WHERE is_cut;
"""
_SIXTH = """
ALTER TABLE results ADD COLUMN reading INTEGER;
ALTER TABLE responses ADD COLUMN text TEXT;
ALTER TABLE responses ADD COLUMN form TEXT;
ALTER TABLE responses ADD COLUMN request_id TEXT;
CREATE TABLE readings (id INTEGER PRIMARY KEY, shape TEXT NOT NULL, reader INTEGER NOT NULL, UNIQUE (shape, reader));
CREATE TABLE rereads (id INTEGER PRIMARY KEY, root INTEGER NOT NULL, before INTEGER NOT NULL);
"""
_SEVENTH = """
CREATE TABLE partials (id INTEGER PRIMARY KEY, at REAL NOT NULL, why TEXT NOT NULL, text TEXT NOT NULL,
    reasoning TEXT NOT NULL, characters INTEGER NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER);
ALTER TABLE requests ADD COLUMN batch INTEGER;
"""
_EIGHTH = """
ALTER TABLE responses ADD COLUMN confidence REAL;
CREATE TABLE opinions (id INTEGER PRIMARY KEY, key BLOB NOT NULL, position INTEGER NOT NULL, source INTEGER NOT NULL,
    status TEXT NOT NULL, answer TEXT NOT NULL, error TEXT NOT NULL, round INTEGER NOT NULL, result INTEGER);
CREATE INDEX opinions_open ON opinions (key) WHERE result IS NULL;
CREATE INDEX opinions_result ON opinions (result);
CREATE INDEX opinions_again ON opinions (key) WHERE round = 1;
CREATE TABLE votes (id INTEGER PRIMARY KEY, answers INTEGER NOT NULL, for_it INTEGER NOT NULL,
    is_tied INTEGER NOT NULL, confidence REAL);
CREATE TABLE draws (id INTEGER PRIMARY KEY, at REAL NOT NULL, design TEXT NOT NULL, rows INTEGER NOT NULL,
    seed INTEGER NOT NULL, strata TEXT NOT NULL);
CREATE TABLE drawn (id INTEGER PRIMARY KEY, draw INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL,
    cells BLOB, label TEXT, chance REAL NOT NULL);
CREATE TABLE gold (id INTEGER PRIMARY KEY, drawn INTEGER NOT NULL, at REAL NOT NULL, gold TEXT NOT NULL,
    origin TEXT NOT NULL);
"""
_NINTH = """
CREATE TABLE corrections (id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
    origin TEXT NOT NULL, is_undo INTEGER NOT NULL, was_kept BLOB);
CREATE INDEX IF NOT EXISTS rereads_root ON rereads (root);
ALTER TABLE gold ADD COLUMN who TEXT;
ALTER TABLE gold ADD COLUMN note TEXT;
"""
# The indexes hold the lines of batches alone, so that other requests cost no more than before.
_TENTH = """
CREATE TABLE batches (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, endpoint INTEGER NOT NULL, source INTEGER NOT NULL,
    name TEXT NOT NULL, made REAL NOT NULL, state TEXT NOT NULL, url TEXT NOT NULL, form TEXT NOT NULL,
    requests INTEGER NOT NULL, bytes INTEGER NOT NULL, tokens INTEGER NOT NULL, sha256 BLOB NOT NULL, input_file TEXT,
    service_id TEXT, service_state TEXT NOT NULL, submitted REAL, expires REAL, ended REAL, completed INTEGER,
    failed INTEGER, output_file TEXT, error_file TEXT, why TEXT NOT NULL);
ALTER TABLE requests ADD COLUMN sent_in INTEGER;
ALTER TABLE responses ADD COLUMN tier TEXT;
CREATE INDEX requests_batch ON requests (sent_in, ended) WHERE sent_in IS NOT NULL;
CREATE INDEX requests_line ON requests (key, position) WHERE sent_in IS NOT NULL;
"""
# Each step brings a journal from one version to the next; a new journal runs all of them.
_STEPS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH, _NINTH, _TENTH)

_RENAMED = {"givers": "sources", "source": "prompt_option"}

# What version 4 renamed, for a reader of version 3: views hide the file's own tables.
_THIRD_AS_FOURTH = """
CREATE TEMP VIEW runs AS SELECT id, host, pid, started, ended, outcome, chunk_size, renamed(question) AS question
    FROM {schema}.runs;
CREATE TEMP VIEW sources AS SELECT * FROM {schema}.givers;
CREATE TEMP VIEW requests AS SELECT id, run, endpoint, giver AS source, position, key, sent, ended, outcome,
    prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, prompt_most, answer_cost, NULL AS batch,
    NULL AS sent_in FROM {schema}.requests;
CREATE TEMP VIEW results AS SELECT id, key, giver AS source, status, answer, error, seal, NULL AS reading
    FROM {schema}.results;
"""

# What version 5 added, for a reader of an older one.
_FOURTH_AS_FIFTH = """
CREATE TEMP VIEW responses AS SELECT NULL AS id, NULL AS finish_reason, 0 AS is_cut, '' AS model, '' AS reasoning,
    NULL AS body, NULL AS text, NULL AS form, NULL AS request_id, NULL AS confidence, NULL AS tier WHERE false;
"""
# What version 6 added.
_RESULTS_AS_SIXTH = "CREATE TEMP VIEW results AS SELECT *, NULL AS reading FROM {schema}.results;"
_RESPONSES_AS_SIXTH = """
CREATE TEMP VIEW responses AS SELECT *, NULL AS text, NULL AS form, NULL AS request_id, NULL AS confidence,
    NULL AS tier FROM {schema}.responses;
"""
_FIFTH_AS_SIXTH = """
CREATE TEMP VIEW readings AS SELECT NULL AS id, NULL AS shape, NULL AS reader WHERE false;
CREATE TEMP VIEW rereads AS SELECT NULL AS id, NULL AS root, NULL AS before WHERE false;
"""
# What version 7 added.
_SIXTH_AS_SEVENTH = """
CREATE TEMP VIEW partials AS SELECT NULL AS id, NULL AS at, NULL AS why, NULL AS text, NULL AS reasoning,
    NULL AS characters, NULL AS prompt_tokens, NULL AS completion_tokens WHERE false;
"""
_REQUESTS_AS_SEVENTH = """
CREATE TEMP VIEW requests AS SELECT *, NULL AS batch, NULL AS sent_in FROM {schema}.requests;
"""
# What version 8 added.
_SEVENTH_AS_EIGHTH = """
CREATE TEMP VIEW opinions AS SELECT NULL AS id, NULL AS key, NULL AS position, NULL AS source, NULL AS status,
    NULL AS answer, NULL AS error, NULL AS round, NULL AS result WHERE false;
CREATE TEMP VIEW votes AS SELECT NULL AS id, NULL AS answers, NULL AS for_it, NULL AS is_tied, NULL AS confidence
    WHERE false;
CREATE TEMP VIEW draws AS SELECT NULL AS id, NULL AS at, NULL AS design, NULL AS rows, NULL AS seed, NULL AS strata
    WHERE false;
CREATE TEMP VIEW drawn AS SELECT NULL AS id, NULL AS draw, NULL AS position, NULL AS key, NULL AS cells,
    NULL AS label, NULL AS chance WHERE false;
CREATE TEMP VIEW gold AS SELECT NULL AS id, NULL AS drawn, NULL AS at, NULL AS gold, NULL AS origin, NULL AS who,
    NULL AS note WHERE false;
"""
_RESPONSES_AS_EIGHTH = """
CREATE TEMP VIEW responses AS SELECT *, NULL AS confidence, NULL AS tier FROM {schema}.responses;
"""
# What version 9 added.
_EIGHTH_AS_NINTH = """
CREATE TEMP VIEW corrections AS SELECT NULL AS id, NULL AS at, NULL AS who, NULL AS why, NULL AS origin,
    NULL AS is_undo, NULL AS was_kept WHERE false;
"""
_GOLD_AS_NINTH = "CREATE TEMP VIEW gold AS SELECT *, NULL AS who, NULL AS note FROM {schema}.gold;"
# What version 10 added.
_NINTH_AS_TENTH = """
CREATE TEMP VIEW batches AS SELECT NULL AS id, NULL AS run, NULL AS endpoint, NULL AS source, NULL AS name,
    NULL AS made, NULL AS state, NULL AS url, NULL AS form, NULL AS requests, NULL AS bytes, NULL AS tokens,
    NULL AS sha256, NULL AS input_file, NULL AS service_id, NULL AS service_state, NULL AS submitted,
    NULL AS expires, NULL AS ended, NULL AS completed, NULL AS failed, NULL AS output_file, NULL AS error_file,
    NULL AS why WHERE false;
"""
_REQUESTS_AS_TENTH = "CREATE TEMP VIEW requests AS SELECT *, NULL AS sent_in FROM {schema}.requests;"
_RESPONSES_AS_TENTH = "CREATE TEMP VIEW responses AS SELECT *, NULL AS tier FROM {schema}.responses;"
_AS_EIGHTH = _SEVENTH_AS_EIGHTH + _EIGHTH_AS_NINTH + _NINTH_AS_TENTH
_AS_SIXTH = _FIFTH_AS_SIXTH + _SIXTH_AS_SEVENTH + _AS_EIGHTH
_REQUESTS_ALONE = _REQUESTS_AS_TENTH + _NINTH_AS_TENTH
# By version: views that let its tables be read as the newest ones.
_AS_NEWEST = {
    3: _THIRD_AS_FOURTH + _FOURTH_AS_FIFTH + _AS_SIXTH,
    4: _FOURTH_AS_FIFTH + _RESULTS_AS_SIXTH + _REQUESTS_AS_SEVENTH + _AS_SIXTH,
    5: _RESULTS_AS_SIXTH + _RESPONSES_AS_SIXTH + _REQUESTS_AS_SEVENTH + _AS_SIXTH,
    6: _SIXTH_AS_SEVENTH + _REQUESTS_AS_SEVENTH + _RESPONSES_AS_EIGHTH + _AS_EIGHTH,
    7: _REQUESTS_AS_TENTH + _RESPONSES_AS_EIGHTH + _AS_EIGHTH,
    8: _REQUESTS_ALONE + _RESPONSES_AS_TENTH + _EIGHTH_AS_NINTH + _GOLD_AS_NINTH,
    9: _REQUESTS_ALONE + _RESPONSES_AS_TENTH,
}

# A copy to plan in.
_COPY = """
BEGIN;
INSERT INTO main.runs SELECT * FROM original.runs;
INSERT INTO main.sources SELECT * FROM original.sources;
INSERT INTO main.chunks SELECT * FROM original.chunks;
INSERT INTO main.rows SELECT * FROM original.rows;
INSERT INTO main.results SELECT id, key, source, status, '', '', NULL, reading FROM original.results;
INSERT INTO main.readings SELECT * FROM original.readings;
INSERT INTO main.rereads SELECT * FROM original.rereads;
INSERT INTO main.corrections SELECT * FROM original.corrections;
INSERT INTO main.events SELECT * FROM original.events;
INSERT INTO main.opinions SELECT id, key, position, source, status, '', '', round, result FROM original.opinions;
INSERT INTO main.votes SELECT * FROM original.votes;
INSERT INTO main.batches SELECT * FROM original.batches;
INSERT INTO main.requests (id, run, endpoint, source, position, key, sent, cost, prompt_most, answer_cost, sent_in)
    SELECT id, run, endpoint, source, position, key, sent, cost, prompt_most, answer_cost, sent_in
    FROM original.requests WHERE ended IS NULL
    AND sent_in IN (SELECT id FROM original.batches WHERE state NOT IN ('done', 'dropped'));
UPDATE main.scope SET rows = (SELECT rows FROM original.scope);
COMMIT;
"""
# The views hide the copy's own tables, which are empty.
_READ_IN_PLACE = ("requests", "responses", "partials", "draws", "drawn", "gold")

IN_SCOPE = "position < (SELECT rows FROM scope)"


def waiting(opinion: str) -> str:
    """Return the SQL condition that an opinion waits: no result is made of it, nor of another reading of it.

    Args:
        opinion: the table's name in the statement.
    """
    root = f"coalesce((SELECT root FROM rereads WHERE id = {opinion}.id), {opinion}.id)"
    return (
        f"{opinion}.result IS NULL"
        f" AND NOT EXISTS (SELECT 1 FROM opinions made WHERE made.id = {root} AND made.result IS NOT NULL)"
        " AND NOT EXISTS (SELECT 1 FROM rereads again JOIN opinions made ON made.id = again.id"
        f" WHERE again.root = {root} AND made.result IS NOT NULL)"
    )


@contextlib.contextmanager
def as_output_errors(path: Path, doing: str) -> Iterator[None]:
    """Raise errors of SQLite, of Python's module for it and of the system as `OutputError`."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise output_error(f"the journal {path} cannot be {doing}: {error}", error) from error
    except OSError as error:
        raise output_error(f"the journal {path} cannot be {doing}: {error.strerror}", error) from error


@contextlib.contextmanager
def busy_if_read(path: Path) -> Iterator[None]:
    """Raise `KeywordBusy` if nothing can be written because this process is reading the journal at the moment."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK):
            raise KeywordBusy(f"{path} is being read by another part of this program: try again soon") from error
        raise


def uri_of(path: Path, mode: str) -> str:
    return f"{path.resolve().as_uri()}?{mode}"


def connect(path: Path, mode: str, timeout_s: float = 30) -> sqlite3.Connection:
    # The planning and the writer thread use it in turn: the run starts when the plan is committed.
    return sqlite3.connect(
        uri_of(path, mode), uri=True, check_same_thread=False, timeout=timeout_s, isolation_level=None
    )


def make_durable(db: sqlite3.Connection) -> None:
    """Let each commit reach the disk before it counts, so that a power cut costs no more than a kill."""
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = ON")  # for macOS, whose fsync alone promises nothing


def check_whole(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a damaged file before anything is written to it: SQLite itself accepts a truncated last page."""
    page_size = int(db.execute("PRAGMA page_size").fetchone()[0])
    has_log = any(log.exists() and log.stat().st_size for log in [path.with_name(f"{path.name}-wal")])
    # With a log, the file may end in a half-copied page, which the log still has.
    is_cut = not has_log and path.stat().st_size % page_size
    [(found,)] = db.execute("PRAGMA quick_check(1)").fetchall()
    if is_cut or found != "ok":
        said = "it ends in the middle of a page" if is_cut else str(found).replace("\n", " ")
        raise OutputError(
            f"the journal {path} is damaged ({said}): put a copy back, or move it away; its chunk files can be adopted"
        )


def check_readable(version: int, path: Path) -> None:
    if version == 0:
        raise OutputError(f"{path} is not a journal of batcher")
    if version < _OLDEST_READ:
        raise OutputError(f"{path} was written by an older batcher: run its command once to bring it up to date")


def version_of(db: sqlite3.Connection, path: Path, schema: str = "main") -> int:
    """Return the journal's version; 0 for a new file.

    Raises:
        OutputError: the file is something else, or too new.
    """
    stamp = int(db.execute(f"PRAGMA {schema}.user_version").fetchone()[0])
    version = stamp & _VERSION_MASK
    application = int(db.execute(f"PRAGMA {schema}.application_id").fetchone()[0])
    tables = int(db.execute(f"SELECT count(*) FROM {schema}.sqlite_master").fetchone()[0])
    if application != _APPLICATION_ID and (tables or application or stamp):
        raise OutputError(f"{path} is not a journal of batcher")
    if version > VERSION:
        raise OutputError(
            f"{path} was written by a newer batcher (version {version}, this one reads {VERSION}): update"
        )
    return version


def read_as_newest(db: sqlite3.Connection, version: int) -> None:
    """Let a connection that only reads find the names of the newest version."""
    if version < VERSION:
        db.create_function("renamed", 1, _renamed, deterministic=True)
        db.execute("PRAGMA query_only = OFF")  # or no view could be made, not even a temporary one
        db.executescript(_AS_NEWEST[version].format(schema="main"))
        db.execute("PRAGMA query_only = ON")


def copy(db: sqlite3.Connection, version: int) -> None:
    """Copy what a plan needs from the journal that is attached as `original`, in its version, into an empty one."""
    db.executescript(_AS_NEWEST.get(version, "").format(schema="original"))
    views = {name for (name,) in db.execute("SELECT name FROM temp.sqlite_master WHERE type = 'view'")}
    db.executescript(re.sub(r"original\.(\w+)", lambda table: _table(table[1], views), _COPY))
    for name in views.difference(_READ_IN_PLACE):
        db.execute(f"DROP VIEW temp.{name}")
    for name in set(_READ_IN_PLACE) - views:
        db.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM original.{name}")


def _table(name: str, views: set[str]) -> str:
    """Return where a table of the attached journal is read: in a view of this name, if there is one."""
    return f"temp.{name}" if name in views else f"original.{name}"


def bring_up_to_date(db: sqlite3.Connection, version: int) -> None:
    db.create_function("renamed", 1, _renamed, deterministic=True)
    for number, step in enumerate(_STEPS[version:], version + 1):
        stamp = _stamp(number, generation_of(db) % GENERATIONS + 1)
        db.executescript(f"BEGIN IMMEDIATE; {step} {stamp} COMMIT;")


def _renamed(question: Any) -> Any:
    """Return a run's question with the names of version 4; any other text stays as it is."""
    with contextlib.suppress(TypeError, ValueError):
        found = json.loads(question)
        if isinstance(found, dict):
            return json.dumps({_RENAMED.get(name, name): value for name, value in found.items()})
    return question


def _stamp(version: int, generation: int) -> str:
    number = generation << _VERSION_BITS | version
    return f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {number};"


def generation_in(page: bytes) -> int:
    """Return the generation in the first page of a file; the page's first 64 bytes are enough."""
    return int.from_bytes(page[60:64]) >> _VERSION_BITS


def generation_of(db: sqlite3.Connection) -> int:
    number = int(db.execute("PRAGMA user_version").fetchone()[0])
    return number >> _VERSION_BITS


def raise_generation(db: sqlite3.Connection) -> None:
    """Give the transaction under way the next generation, so that its part of the log holds the first page."""
    # Read from the file, because a failed transaction has not used its generation.
    [stamp] = db.execute("PRAGMA user_version").fetchone()
    version, generation = stamp & _VERSION_MASK, stamp >> _VERSION_BITS
    db.execute(f"PRAGMA user_version = {(generation % GENERATIONS + 1) << _VERSION_BITS | version}")


def give_generation(db: sqlite3.Connection) -> None:
    """Give a file without a generation its first one, in the file itself and not in a log.

    It is drawn at random, so that the logs of two journals are told apart.
    """
    db.execute("PRAGMA journal_mode = DELETE")  # moves the log of an older batcher into the file
    version = int(db.execute("PRAGMA user_version").fetchone()[0]) & _VERSION_MASK
    db.executescript(f"BEGIN EXCLUSIVE; {_stamp(version, 1 + secrets.randbelow(GENERATIONS))} COMMIT;")


def exact_sum(column: str, condition: str = "true") -> str:
    """Return two SQL expressions of a sum, for `whole`: a single sum would overflow beyond 2^63."""
    return ", ".join(
        f"coalesce(sum({part}) FILTER (WHERE {condition}), 0)" for part in (f"{column} >> 32", f"{column} & 0xffffffff")
    )


def whole(upper: int, lower: int) -> int:
    """Combine the two sums of `exact_sum`."""
    return (upper << 32) + lower


def bound(text: str) -> str | bytes:
    """Return a text in the form that SQLite can store: a text with lone surrogates becomes bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def text_of(value: str | bytes) -> str:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
