"""What a model thought is not its answer: it goes to the journal, and into the files if the user wants it there."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from canned_server import completion, http, stream
from hostile_server import Ask, Step, hostile
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel

import batcher
from batcher.answer.thinking import parted
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.rehearsal.scene import Scene
from batcher.settings import Settings

CHANNELS = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>good<|return|>"


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nhm\n</think>\n\ngood",
        "\n<think>hm</think>good",
        "<THINK>hm</THINK>good",
        "<thinking>hm</thinking> good",
        "<thought>\nhm\n</thought>\ngood",
        "<seed:think>hm</seed:think>good",
        "[THINK]hm[/THINK]good",
        "◁think▷hm◁/think▷good",
        "<|START_THINKING|>hm<|END_THINKING|>good",
        CHANNELS,
        f"<|start|>assistant{CHANNELS}",
        "analysishmassistantfinalgood",
        # Only the closing mark comes, because the chat template writes the other one.
        "hm\n</think>\n\ngood",
        "hm</think>good",
        "hm</seed:think>good",
        "hm[/THINK]\ngood",
    ],
)
def test_the_thought_at_the_beginning_is_apart(text: str) -> None:
    assert parted(text, is_cut=False) == ("hm", "good", False)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\n\n</think>\n\ngood", "", "good"),
        ("</think>\n\ngood", "", "good"),
        ("It says so. </think> good", "It says so.", "good"),
        ("他很满意。</think>正面", "他很满意。", "正面"),
        ("<think>a</think>\n<think>b</think>good", "a\nb", "good"),
        ("<think>it has `</think>` in it</think>good", "it has `</think>` in it", "good"),
        ("it has '</think>' in it\n</think>\ngood", "it has '</think>' in it", "good"),
        ("<think>hm</think>", "hm", ""),
        ("<think>hm</think>\n  {\n}\n", "hm", "{\n}\n"),
        ("<think></think>\n\n<think>x</think>y", "x", "y"),
        # With attributes, or escaped.
        ("<think time=3>hm</think >good", "hm", "good"),
        ("&lt;think&gt;hm&lt;/think&gt;good &amp; cheap", "hm", "good &amp; cheap"),
        ("hm&lt;/think&gt;good", "hm", "good"),
        # One in the other.
        ("<think>a<think>b</think>c</think>good", "a<think>b</think>c", "good"),
        ("<think><think>a</think>b</think>good", "<think>a</think>b", "good"),
        ("<think>a<THINK>b<think>c</think>d</THINK>e</think>Use <think>x</think>", None, "Use <think>x</think>"),
        # Not as often closed as opened.
        ("<think>\n<think>\nhm</think>good", "hm", "good"),
        ("<think>\n<think>\nhm</think>Write <think>x</think>", "hm", "Write <think>x</think>"),
        ("<think>I may write <think> or <b>.</think>good", "I may write <think> or <b>.", "good"),
        ("<think>a<think>b</think>good", "a<think>b", "good"),
        ("<think>a<think>b<think>c</think>d</think>good", "a<think>b<think>c</think>d", "good"),
        # More often closed than opened.
        ("<think>a</think>b</think>good", "a\nb", "good"),
        ("<think>a</think>\n</think>\ngood", "a", "good"),
        ("a</think>b</think>good", "a</think>b", "good"),
        ("<think>hm</think>good</think>", "hm", "good</think>"),
        # Mentioned in a thought: quoted, in code, amid a sentence.
        ('<think>the text says "</think>" here</think>good', 'the text says "</think>" here', "good"),
        ('<think>it says "a </think> b" to me</think>good', 'it says "a </think> b" to me', "good"),
        ("<think>it says `a </think> b` to me</think>good", "it says `a </think> b` to me", "good"),
        ("<think>see:\n```\n</think>\n```\nSo.</think>good", "see:\n```\n</think>\n```\nSo.", "good"),
        ("<think>it ends with a </think> mark, I see</think>good", "it ends with a </think> mark, I see", "good"),
        ('it has "<think>" in it</think>good', 'it has "<think>" in it', "good"),
        # The only mark ends the thought, wherever it stands.
        ("<think>hm </think> good, and it is cheap.", "hm", "good, and it is cheap."),
        ("<think>```python\nx = 1</think>good", "```python\nx = 1", "good"),
        ('<think>it is "hm</think>" that is all', 'it is "hm', '" that is all'),
        ('<think>5" wide, it`s</think>`x` is 5" wide', '5" wide, it`s', '`x` is 5" wide'),
        # The opening mark did not come, and the answer stands in the same line.
        ("he is happy </think> good", "he is happy", "good"),
        ("he is happy </think> The review is good.", "he is happy", "The review is good."),
        ("he is happy </think>good", "he is happy", "good"),
        ("HM.</THINK>good", "HM.", "good"),
        # Mentioned in an answer.
        ("<think>hm</think>Between <think> and </think> it thinks.", "hm", "Between <think> and </think> it thinks."),
        ("<think>hm</think>Close it with </think>.", "hm", "Close it with </think>."),
        ("<think>hm</think>`</think>` closes it", "hm", "`</think>` closes it"),
    ],
)
def test_thought_and_answer_keep_their_texts(text: str, thought: str | None, answer: str) -> None:
    found = parted(text, is_cut=False)
    assert found is not None
    assert found == (found.thought if thought is None else thought, answer, False)


@pytest.mark.parametrize(
    "text",
    [
        "good",
        "The tag is <think>x</think>, I believe",
        "<p>hm</p><think>x</think>",
        "Close it with the </think> tag.",
        "`</think>` closes it",
        "It ends with '</think>'.",
        "```html\n<b>x</think>\n```\nThis is wrong.",
        "<think> is not a tag of HTML.",
        "<think> and </think> are not tags of HTML.",
        "<reasoning>asked for</reasoning><answer>good</answer>",
        "analysis: good",
        "<thinker>x</thinker>",
        "In HTML <think time=3> is unknown, and </think> too.",
        "Write:\n<think>\nwhat you think\n</think>\nand then the answer.",
        'He says "a </think> b" to me.',
        "It has no &lt;/think&gt; mark.",
    ],
)
def test_a_mark_elsewhere_is_text(text: str) -> None:
    assert parted(text, is_cut=False) is None


@pytest.mark.parametrize("text", ["<think>\nhm", "<think>hm", "[THINK]hm", "<|channel|>analysis<|message|>hm"])
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_thought_that_never_closes_is_no_answer(text: str, is_cut: bool) -> None:
    assert parted(text, is_cut=is_cut) == ("hm", "", True)


def test_a_thought_in_a_thought_that_is_cut_off_is_no_answer() -> None:
    assert parted("<think>a<think>b</think>c", is_cut=True) == ("a<think>b</think>c", "", True)
    assert parted("<think>\n<think>\na</think>good and", is_cut=True) == ("a", "good and", False)


MARKS = re.compile(r"</?(?:think|THINK)(?: n=1)?>|\s")
PIECES = st.sampled_from(
    ["<think>", "</think>", "</THINK>", "<think n=1>", "a", " b", " so it ends. ", "\n", " ", "`", '"', "```", ". "]
)


@given(st.lists(PIECES, max_size=14).map("".join), st.booleans())
def test_thought_and_answer_cover_the_text_but_for_marks(text: str, is_cut: bool) -> None:
    found = parted(text, is_cut=is_cut)
    if found is not None:
        assert MARKS.sub("", found.thought + found.answer) == MARKS.sub("", text)
        assert text.endswith(found.answer)
        assert not (found.is_open and found.answer)


@given(st.text(st.sampled_from("<>/thinkTHINK[]` \n.◁▷"), max_size=40), st.booleans())
def test_any_text_can_be_read(text: str, is_cut: bool) -> None:
    found = parted(text, is_cut=is_cut)
    assert found is None or (found.answer in text and not (found.is_open and found.answer))


@pytest.mark.parametrize(
    "part",
    [
        *("<think></think>", "'</think>'", "<think>", "<|channel|>", "<|channel|>a<|message|>", "analysis", " ", "a"),
        *("<think>a</think>a ", '"</think> ', "```</think>", "</think>", "a </think> b ", "<think a"),
        "<think>a<think></think>",
    ],
)
@pytest.mark.timeout(60)
def test_no_text_takes_long(part: str) -> None:
    """Quadratic time would be hours."""
    for before in ("", "<|channel|>", "<|channel|>a", "<think>", "<think>a<think>"):
        text = before + part * 50_000
        found = parted(text, is_cut=False)
        assert found is None or found.answer in text


# -- Runs


THINKS = "<think>\nIt is a.\n</think>\n\ngood"


def run(folder: Path, body: Any, prompts: tuple[str, ...] = ("a", "b"), **options: Any) -> batcher.Report:
    """Ask a server that answers the prompt `a` with a body of its own, and each other one plainly."""

    def script(ask: Ask) -> Iterator[Step]:
        own = body if isinstance(body, bytes) else http(200, body).data
        yield own if ask.prompt == "a" else http(200, completion("plain", usage={"completion_tokens": 1})).data

    with hostile(script) as server:
        endpoint = Endpoint("m", base_url=server.base_url)
        return batcher.run(list(prompts), keyword="k", output_dir=folder, endpoints=[endpoint], quiet=True, **options)


def again(folder: Path, **options: Any) -> None:
    """Run the same once more; no server is there to be asked."""
    with closing(sqlite3.connect(folder / "journal_k.sqlite")) as db:
        [(base_url,)] = db.execute("SELECT base_url FROM sources WHERE base_url <> ''")
    endpoint = Endpoint("m", base_url=base_url)
    report = batcher.run(["a", "b"], keyword="k", output_dir=folder, endpoints=[endpoint], quiet=True, **options)
    assert report.requests_now == 0


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "all_k.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reasoning(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "journal_k.sqlite")) as db:
        query = "SELECT reasoning FROM rows LEFT JOIN responses ON id = result ORDER BY position"
        return [text for (text,) in db.execute(query)]


def chunk(content: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content}, "finish_reason": reason}], "model": "m"}


STREAMED = stream(
    *(chunk(piece) for piece in ("<thi", "nk>\nIt is", " a.\n</thi", "nk>\n\ngo", "od")), chunk("", "stop")
)


@pytest.mark.parametrize("body", [completion(THINKS), STREAMED.data, completion("It is a.\n</think>\ngood")])
def test_a_thought_goes_to_the_journal_and_the_answer_to_the_file(tmp_path: Path, body: Any) -> None:
    assert run(tmp_path, body).ok == 2
    assert [row["infer"] for row in rows(tmp_path)] == ["good", "plain"]
    assert reasoning(tmp_path) == ["It is a.", ""]
    assert batcher.verify("k", ["a", "b"], output_dir=tmp_path).ok


def test_each_of_several_answers_is_read_by_itself(tmp_path: Path) -> None:
    texts = [THINKS, "plain", "<think>\nhm"]
    choices = [completion(text)["choices"][0] | {"index": number} for number, text in enumerate(texts)]
    assert run(tmp_path, completion() | {"choices": choices}, param={"n": 3}).ok == 2
    assert json.loads(rows(tmp_path)[0]["infer"]) == ["good", "plain", ""]
    assert json.loads(reasoning(tmp_path)[0]) == ["It is a.", "", "hm"]
    assert batcher.verify("k", ["a", "b"], output_dir=tmp_path).ok


def test_a_thought_that_was_cut_off_says_so_and_is_kept(tmp_path: Path) -> None:
    cut = completion("<think>\nIt is", finish_reason="length", usage={"prompt_tokens": 3, "completion_tokens": 200})
    assert run(tmp_path, cut).invalid == 1
    [first, _] = rows(tmp_path)
    assert (first["infer"], first["infer_status"]) == ("", "invalid")
    said = "cut off while thinking (200 tokens, max_tokens): raise max_tokens, or switch thinking off"
    assert first["infer_error"] == said
    assert reasoning(tmp_path)[0] == "It is"


def test_all_stays_as_it_came_if_the_user_wants_it(tmp_path: Path) -> None:
    assert run(tmp_path, completion(THINKS, reasoning_content="apart"), keep_thinking=True).ok == 2
    assert rows(tmp_path)[0]["infer"] == THINKS
    assert reasoning(tmp_path) == ["apart", ""]
    assert batcher.verify("k", ["a", "b"], output_dir=tmp_path).ok


def test_a_thought_that_comes_in_both_places_is_kept_once(tmp_path: Path) -> None:
    run(tmp_path, completion(THINKS, reasoning_content="It is a."))
    assert reasoning(tmp_path) == ["It is a.", ""]
    run(tmp_path / "other", completion(THINKS, reasoning_content="First."))
    assert reasoning(tmp_path / "other") == ["First.\nIt is a.", ""]


def test_how_thoughts_are_kept_is_no_part_of_the_question(tmp_path: Path) -> None:
    run(tmp_path, completion(THINKS), keep_thinking=True)
    before = (tmp_path / "all_k.csv").read_bytes()
    for options in ({}, {"on_change": "reuse"}, {"retry_failed": True}):
        again(tmp_path, **options)
        assert (tmp_path / "all_k.csv").read_bytes() == before
    again(tmp_path, on_change="reuse", param={"n": 2})
    assert rows(tmp_path)[0]["infer"] == THINKS


def test_a_chat_model_is_read_the_same_way(tmp_path: Path) -> None:
    model = FakeListChatModel(responses=[THINKS])
    batcher.run(["a"], keyword="k", output_dir=tmp_path, endpoints=[Endpoint(llm=model)], quiet=True)
    assert rows(tmp_path)[0]["infer"] == "good"
    assert reasoning(tmp_path) == ["It is a."]


# -- Further columns


def test_further_columns_stand_behind_the_others_and_come_and_go_for_nothing(tmp_path: Path) -> None:
    run(tmp_path, completion(THINKS))
    plain = (tmp_path / "all_k.csv").read_bytes()
    for names in (["finish", "reasoning"], "finish,reasoning"):
        again(tmp_path, with_=names)
        [first, second] = rows(tmp_path)
        assert [*first] == ["text", "infer", "infer_status", "infer_error", "infer_reasoning", "infer_finish"]
        assert [*first.values()] == ["a", "good", "ok", "", "It is a.", "stop"]
        assert [*second.values()] == ["b", "plain", "ok", "", "", "stop"]
        for data in (["a", "b"], None):
            found = batcher.verify("k", data, output_dir=tmp_path)
            assert found.ok, found
    assert batcher.merge("k", tmp_path).name == "all_k.csv"
    again(tmp_path)
    assert (tmp_path / "all_k.csv").read_bytes() == plain
    assert not list(tmp_path.glob("*.bak"))


def test_a_column_that_the_input_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,infer_model\na,b\n")
    with pytest.raises(batcher.SettingsError, match="the input has a column 'infer_model' already"):
        batcher.plan(tmp_path / "t.csv", "{text}", provider="offline", with_="model")


def test_a_chunk_file_with_further_columns_is_adopted_and_its_own_version_is_kept(tmp_path: Path) -> None:
    run(tmp_path, completion(THINKS), with_="reasoning")
    chunk_file = tmp_path / "0_k.csv"
    before = chunk_file.read_bytes()
    for path in [*tmp_path.glob("journal*"), tmp_path / "all_k.csv"]:
        path.unlink()
    assert run(tmp_path, completion("never asked"), with_="reasoning").requests_now == 0
    assert rows(tmp_path)[0]["infer"] == "good"
    assert (tmp_path / "0_k.csv.bak").read_bytes() == before


def test_the_command_line_takes_names_with_commas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text\na\n")
    job = ["run", "t.csv", "--prompt", "{text}", "--provider", "offline", "--quiet"]
    assert main([*job, "--with", "model,reasoning"]) == 0
    assert (
        Path("output/all_t.csv")
        .read_text()
        .startswith("text,infer,infer_status,infer_error,infer_reasoning,infer_model\n")
    )
    assert main([*job, "--with", "certainty"]) == 2
    assert "--with must be out of raw, reasoning, tokens" in capsys.readouterr().err


def test_a_rehearsal_has_the_further_columns_and_the_parameters_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    settings = Settings(
        provider="offline",
        keyword="k",
        limit=5,
        with_=["model", "reasoning"],
        keep_thinking=True,
        param={"stop": "True"},
    )
    command = Scene.of(tmp_path / "t.csv", "{text}", settings, tmp_path).command("http://127.0.0.1:1/v1")
    assert {"--with=reasoning,model", "--keep-thinking", '--param=stop="True"'} <= set(command)


# -- verify


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE responses SET reasoning = 'another' WHERE reasoning <> '' AND ? IS NOT NULL",
        "UPDATE responses SET body = ? WHERE reasoning <> ''",
    ],
)
def test_verify_reads_the_response_again(tmp_path: Path, change: str, keep: bool) -> None:
    run(tmp_path, completion(THINKS, reasoning_content="first"), keep_thinking=keep)
    assert batcher.verify("k", ["a", "b"], output_dir=tmp_path).ok
    body = zlib.compress(json.dumps(completion(THINKS.replace("good", "bad"), reasoning_content="first")).encode())
    with closing(sqlite3.connect(tmp_path / "journal_k.sqlite")) as db, db:
        db.execute(change, (body,))
    [finding] = batcher.verify("k", ["a", "b"], output_dir=tmp_path).findings
    assert (finding.kind, finding.rows) == ("body-other", ((0, 0),))


def test_verify_names_a_further_column_that_was_changed(tmp_path: Path) -> None:
    run(tmp_path, completion(THINKS), with_="reasoning")
    chunk_file = tmp_path / "0_k.csv"
    chunk_file.write_text(chunk_file.read_text().replace("It is a.", "It is b."))
    found = batcher.verify("k", ["a", "b"], output_dir=tmp_path)
    assert found.corrected == ((str(chunk_file), 1, 1),)
