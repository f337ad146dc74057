"""Real Ray: several nodes on this machine, workers and nodes that are killed, and the server's books beside ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from programs import ROOT, LocalServer, call, environment, finish, local_server, started, write_table
from virtual_time import run_virtually

from batcher.errors import SettingsError
from batcher.output.joining import merge
from batcher.reports.verification.verify import verify

pytest.importorskip("ray", reason="the extra ray is not installed")

ROWS = 160
KEY = "sk-ray-secret-0123456789abcdef"


class Nodes:
    """A cluster, and the nodes that were added to it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._whole: list[int] = []
        self._begin()

    def _begin(self) -> None:
        self._program = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, ROOT / "tests" / "ray_nodes.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment(),
            )
        )
        assert self._program.stdout
        self.address = self._program.stdout.readline().strip()
        self._added = 0
        self._is_dead = False

    def _obey(self, order: str) -> object:
        assert self._program.stdin
        assert self._program.stdout
        print(order, file=self._program.stdin, flush=True)
        return json.loads(self._program.stdout.readline())

    def add(self, modules: Path | None = None) -> int:
        assert self._obey(f"add {modules or ''}") == "ok"
        self._added += 1
        return self._added - 1

    def kill(self, node: int) -> None:
        self._obey(f"kill {node}")
        self._whole = [each for each in self._whole if each != node]

    def drain(self, node: int) -> None:
        assert self._obey(f"drain {node}") == "ok"

    def workers(self, node: int) -> list[int]:
        found = self._obey(f"workers {node}")
        assert isinstance(found, list)
        return found

    def kill_head(self) -> None:
        self._obey("kill head")
        self._is_dead = True

    def kill_own_node(self) -> None:
        """Kill the node to which the test's programs belong: the head's."""
        self._obey("kill raylet")
        self._is_dead = True

    def two(self) -> tuple[int, int]:
        """Return two nodes that are whole; those that a test kills are made up for, and so is a dead cluster."""
        if self._is_dead:
            self._program.communicate()
            self._whole.clear()
            self._begin()
        self._whole += [self.add() for _ in range(2 - len(self._whole))]
        first, second = self._whole
        return first, second


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        yield Nodes(stack)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server("--latency", "0.4", cwd=tmp_path_factory.mktemp("server")) as found:
        yield found


def with_table(folder: Path) -> Path:
    texts = [(str(number), f'review {number}, "quoted", 好 \n second line') for number in range(ROWS)]
    write_table(folder / "in.csv", ["id", "text"], texts)
    return folder


@pytest.fixture
def folder(tmp_path: Path, server: LocalServer) -> Path:
    server.reset()
    return with_table(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbs, without Ray."""
    folder = with_table(tmp_path_factory.mktemp("undisturbed"))
    with local_server(cwd=folder) as server:
        assert call(*command(server), cwd=folder).status == 0
    return files(folder / "output")


def command(server: LocalServer, *further: str) -> list[str]:
    common = ("run", "in.csv", "--prompt", "Label: {text}", "--keyword", "k", "--base-url", server.base_url)
    sizes = ("--model", "m", "--chunk-size", "50", "--max-concurrency", "24", "--canary", "0", "--quiet")
    return [*common, *sizes, *further]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*_k.csv"))}


def outcomes(directory: Path) -> dict[str, int]:
    with sqlite3.connect(directory / "journal_k.sqlite") as journal:
        return dict(journal.execute("SELECT coalesce(outcome, 'out'), count(*) FROM requests GROUP BY 1"))


def test_dead_workers_and_a_dead_node_cost_only_what_they_had_in_flight(
    nodes: Nodes, server: LocalServer, folder: Path, expected: dict[str, bytes]
) -> None:
    ray = ("--ray", nodes.address, "--ray-workers", "2", "--rps", "40")
    first, second = nodes.two()
    with started(*command(server, *ray), cwd=folder, API_KEY=KEY) as program:
        server.wait_for(40)
        (worker,) = nodes.workers(first)
        assert KEY not in Path(f"/proc/{worker}/environ").read_text()
        os.kill(worker, signal.SIGKILL)
        server.wait_for(90)
        nodes.kill(second)
        done = finish(program)
    assert (done.status, done.stdout, files(folder / "output")) == (0, "output/all_k.csv\n", expected)
    lost = outcomes(folder / "output")["worker lost"]
    assert outcomes(folder / "output") == {"answered": ROWS, "worker lost": lost}
    assert 0 < lost <= 2 * 24
    books = server.books()
    assert ROWS <= books["requests"] <= ROWS + lost
    assert max(books["per_second"]) <= 40
    assert call("verify", "k", "in.csv", cwd=folder).status == 0
    said = call("status", "k", cwd=folder).stdout
    assert f"{lost} requests were out at workers that were lost" in said


def test_a_killed_engine_goes_on_with_the_same_command(
    nodes: Nodes, server: LocalServer, folder: Path, expected: dict[str, bytes]
) -> None:
    nodes.two()
    ray = ("--ray", nodes.address, "--ray-workers", "2")
    with started(*command(server, *ray), cwd=folder) as program:
        server.wait_for(60)
        program.kill()
        program.wait()
    out = outcomes(folder / "output")["out"]
    assert call(*command(server, *ray), cwd=folder).status == 0
    assert files(folder / "output") == expected
    assert server.books()["requests"] <= ROWS + out
    assert outcomes(folder / "output") == {"answered": ROWS, "out": out}


def test_shards_with_workers_of_their_own_keep_to_the_limit_together_and_make_the_files_of_one_run(
    nodes: Nodes, server: LocalServer, folder: Path, expected: dict[str, bytes]
) -> None:
    ray = ("--ray", nodes.address, "--ray-workers", "1", "--rps", "60", "--retry-failed")
    nodes.two()
    with contextlib.ExitStack() as stack:
        shards = [(*command(server, *ray), "--shard", f"{number}/2") for number in (1, 2)]
        programs = [stack.enter_context(started(*each, cwd=folder)) for each in shards]
        assert [finish(each).status for each in programs] == [0, 0]
    books = server.books()
    assert books["requests"] == ROWS
    assert max(books["per_second"]) <= 60
    assert books["peak_in_flight"] <= 24
    merge("k", folder / "output")
    assert files(folder / "output") == expected
    assert verify("k", folder / "in.csv", output_dir=folder / "output").ok


def test_nodes_that_join_are_used_and_those_that_drain_finish(
    nodes: Nodes, server: LocalServer, folder: Path, expected: dict[str, bytes]
) -> None:
    old = nodes.two()
    with started(*command(server, "--ray", nodes.address, "--ray-workers", "4"), cwd=folder) as program:
        server.wait_for(30)
        # However long nodes take to start, there are rows left for them; and requests go on, so that some are out.
        assert call("limit", "k", "--rps", "1", cwd=folder).status == 0
        new = [nodes.add(), nodes.add()]
        for node in old:
            nodes.drain(node)
        while not all(map(nodes.workers, new)) or any(map(nodes.workers, old)):
            time.sleep(0.1)
        left = ROWS - server.books()["requests"]
        assert call("limit", "k", "--rps", "1000", cwd=folder).status == 0
        done = finish(program)
    for node in (*old, *new):
        nodes.kill(node)
    assert left > 0
    assert (done.status, files(folder / "output")) == (0, expected)
    assert outcomes(folder / "output") == {"answered": ROWS}
    assert server.books()["requests"] == ROWS


def test_a_dead_head_stops_the_run_in_order_and_the_same_command_goes_on_at_another_one(
    nodes: Nodes, folder: Path, expected: dict[str, bytes]
) -> None:
    nodes.two()
    (folder / "faults.toml").write_text('[[fault]]\nrequests = "61-84"\ndo = "hang"\n', encoding="utf-8")
    with local_server("--faults", "faults.toml", cwd=folder) as server:
        ray = command(server, "--ray", "auto", "--ray-workers", "2")
        with started(*ray, cwd=folder, RAY_ADDRESS=nodes.address) as program:
            server.wait_for(84)
            nodes.kill_head()
            done = finish(program)
        assert (done.status, done.stdout) == (3, ""), done.stderr
        lost, saved, out = done.stderr.splitlines()
        assert lost.startswith("batcher: Ray (auto) is lost: it does not answer any more")
        assert saved == f"60 of {ROWS} rows are saved, and the same command goes on from there"
        assert out.startswith("24 requests were out")
        nodes.two()
        done = call(*ray, cwd=folder, RAY_ADDRESS=nodes.address)
        assert (done.status, files(folder / "output")) == (0, expected), done.stderr
        assert server.books()["requests"] == ROWS + 24
    sent = outcomes(folder / "output")
    assert (sent["answered"], sent["out"]) == (ROWS, 24)
    assert sent.keys() <= {"answered", "out", "unsent"}


def test_a_node_without_batcher_is_left_out_unless_there_is_no_other(
    nodes: Nodes, server: LocalServer, folder: Path, expected: dict[str, bytes]
) -> None:
    (folder / "modules" / "batcher").mkdir(parents=True)
    (folder / "modules" / "batcher" / "__init__.py").write_text("", encoding="utf-8")
    for node in nodes.two():
        nodes.kill(node)
    without, good = nodes.add(folder / "modules"), nodes.add()
    ray = [each for each in command(server, "--ray", nodes.address, "--ray-workers", "2") if each != "--quiet"]
    done = call(*ray, cwd=folder)
    nodes.kill(good)
    refused = call(*ray, "--keyword", "other", cwd=folder)
    nodes.kill(without)
    assert (done.status, files(folder / "output")) == (0, expected), done.stderr
    assert done.stderr.count("a worker cannot start: ") == 1
    assert "No module named 'batcher.calls'" in done.stderr
    assert (refused.status, refused.stdout) == (2, "")
    assert "no worker can start: " in refused.stderr
    assert "No module named 'batcher.calls'" in refused.stderr
    assert server.books()["requests"] == ROWS


def test_the_engine_loads_no_langchain_and_works_beside_a_running_loop(
    nodes: Nodes, server: LocalServer, folder: Path
) -> None:
    script = folder / "run.py"
    script.write_text(
        "import asyncio, json, sys\nimport batcher\n\n\nasync def main():\n"
        f"    return batcher.run('in.csv', 'Label: {{text}}', keyword='k', base_url={server.base_url!r}, model='m',"
        f" ray='auto', ray_workers=2, limit=40, no_progress=True)\n\n\n"
        "report = asyncio.run(main())\n"
        "print(json.dumps([report.ok, [m for m in sys.modules if m.partition('.')[0] in"
        " {'langchain_core', 'langchain_openai', 'openai'}]]))\n",
        encoding="utf-8",
    )
    nodes.two()
    with started(script, cwd=folder, RAY_ADDRESS=nodes.address, PYTHONPATH=str(ROOT)) as program:
        done = finish(program)
    assert json.loads(done.stdout.splitlines()[-1]) == [40, []], done.stderr


def test_runs_share_a_connection_leave_the_users_open_and_do_not_show_the_command_line(
    nodes: Nodes, server: LocalServer, folder: Path
) -> None:
    script = folder / "runs.py"
    script.write_text(
        "import json, sys, threading\nimport batcher, ray\n\n\n"
        "def run(keyword):\n"
        f"    report = batcher.run('in.csv', 'Label: {{text}}', keyword=keyword, base_url={server.base_url!r},"
        f" model='m', ray={nodes.address!r}, ray_workers=1, limit=40, no_progress=True, rps=10)\n"
        "    answered.append(report.ok)\n\n\n"
        "answered = []\n"
        "threads = [threading.Thread(target=run, args=[name]) for name in 'ab']\n"
        "[each.start() for each in threads]\n"
        "[each.join() for each in threads]\n"
        "was_left = ray.is_initialized()\n"
        "entry = ray._private.utils.get_entrypoint_name()\n"
        f"ray.init({nodes.address!r}, log_to_driver=False)\n"
        "run('c')\n"
        "jobs = ray._private.state.state.job_table()\n"
        "theirs = [each['Entrypoint'] for each in jobs if each['DriverPid'] == __import__('os').getpid()]\n"
        "print(json.dumps([answered, was_left, ray.is_initialized(), sys.argv[1] in entry,"
        " sorted(sys.argv[1] in each for each in theirs)]))\n",
        encoding="utf-8",
    )
    nodes.two()
    with started(script, KEY, cwd=folder, PYTHONPATH=str(ROOT)) as program:
        done = finish(program)
    # The last of the jobs is the user's own connection.
    assert json.loads(done.stdout.splitlines()[-1]) == [[40] * 3, False, True, True, [False, True]], done.stderr


def test_the_run_stops_if_the_node_of_its_own_machine_dies(nodes: Nodes, server: LocalServer, folder: Path) -> None:
    nodes.two()
    with started(*command(server, "--ray", nodes.address, "--rps", "10"), cwd=folder) as program:
        server.wait_for(20)
        nodes.kill_own_node()
        done = finish(program)
    assert (done.status, done.stdout) == (3, ""), done.stderr
    assert "is lost: Ray's node on this machine is dead. Start it again" in done.stderr


def descendants(pid: int) -> set[int]:
    """Return the processes below one, with their parents' ids read from /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def terminate_all(pid: int) -> None:
    """Ask a process and all below it to end, as `timeout` does; a closed terminal sends SIGHUP in the same way."""
    for each in [pid, *descendants(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGTERM)


def is_working(pid: int) -> bool:
    """Return whether a process is there, and is none of Ray's agents."""
    try:
        is_over = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not is_over and b"Agent" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_ray_of_the_runs_own_holds_no_key_and_ends_with_it_also_after_a_kill(
    server: LocalServer, folder: Path
) -> None:
    variables = {"API_KEY": KEY, "OPENAI_API_KEY": KEY, "TMPDIR": str(folder), "HOME": str(folder / "home")}
    ray = command(server, "--ray", "local", "--ray-workers", "1")
    with started(*ray, cwd=folder, **variables) as program:
        server.wait_for(60)
        below = descendants(program.pid)
        for pid in below:
            with contextlib.suppress(OSError):
                assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
                assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        (place,) = Path("/tmp").glob(f"batcher-ray-{program.pid}-*")  # noqa: S108 - TMPDIR is too long for Ray
        for path in place.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        program.kill()
        program.wait()
        # Ray's own agents look for the others for a minute before they end.
        while any(map(is_working, below)):
            time.sleep(0.05)
    with started(*ray, cwd=folder, **variables) as program:
        server.wait_for(110)
        terminate_all(program.pid)
        done = finish(program)
    assert done.status == 3, done.stderr
    assert "worker" not in done.stderr
    assert "***" not in done.stderr  # Ray's handler would print a stack
    with started(*ray, cwd=folder, **variables) as program:
        done = finish(program)
    assert (done.status, done.stdout.strip()) == (0, "output/all_k.csv"), done.stderr
    assert not place.exists()  # what the killed run left, the next one removed
    assert not [*place.parent.glob(f"batcher-ray-{program.pid}-*")]
    assert not (folder / "home").exists()
    sent = outcomes(folder / "output")
    assert sum(sent.values()) - sent.pop("unsent", 0) == server.books()["requests"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray can be reached there"),
        ("ray://127.0.0.1:1", "no Ray can be reached there"),
        ("nowhere", "must be local, auto, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_is_sent(
    server: LocalServer, folder: Path, address: str, said: str
) -> None:
    done = call(*command(server, "--ray", address), cwd=folder, TMPDIR=str(folder))
    assert done.status == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert server.books()["requests"] == 0


def test_what_listens_and_is_not_ray_is_refused_soon(server: LocalServer, folder: Path) -> None:
    address = server.base_url.removeprefix("http://").removesuffix("/v1")
    for prefix in ("", "ray://"):
        done = call(*command(server, "--ray", prefix + address), cwd=folder)
        assert (done.status, done.stderr.count("what listens there is not Ray")) == (2, 1), done.stderr


@pytest.mark.parametrize("failures", [1, 2])
def test_a_ray_of_the_runs_own_is_started_once_more_and_its_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    import ray  # noqa: PLC0415 - it is an extra

    from batcher.calls.workers import ray_cluster  # noqa: PLC0415 - it needs it

    def init(*_: object, **options: object) -> None:
        places.append(Path(str(options["_temp_dir"])))
        if len(places) <= failures:
            raise RuntimeError("Failed to start GCS.\nLast lines of its log:\nTraceback (most recent call last):")

    async def work() -> None:
        connection = ray_cluster._Connection()
        await connection.begin("local", 1, ())
        assert places[-1].is_dir()
        await connection.end()

    places: list[Path] = []
    monkeypatch.setattr(ray, "init", init)
    if failures == 1:
        asyncio.run(work())
    else:
        with pytest.raises(SettingsError) as caught:
            asyncio.run(work())
        assert str(caught.value) == 'ray="local": Ray does not start (RuntimeError: Failed to start GCS.)'
    assert len(places) == 2
    assert not any(place.exists() for place in places)


def test_a_cluster_that_is_lost_before_it_gave_a_worker_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from batcher.calls.workers import ray_cluster  # noqa: PLC0415 - it needs the extra
    from batcher.calls.workers.setup import Setup  # noqa: PLC0415

    class Connection:
        async def begin(self, *_: object) -> None: ...
        async def end(self, *, is_lost: bool) -> None: ...

    class Crew:
        def gone(self, error: Exception) -> None:
            told.append(error)

    def look() -> None:
        raise ConnectionError("no answer")

    async def work() -> None:
        cluster = ray_cluster.RayCluster("auto", None, 10, (), lambda *_: None)
        try:
            await cluster.start(Setup((), {}), cast("Any", Crew()))
        finally:
            await cluster.close()

    told: list[Exception] = []
    monkeypatch.setattr(ray_cluster, "_connection", Connection())
    monkeypatch.setattr(ray_cluster, "_look", look)
    with pytest.raises(ray_cluster.ClusterLost) as caught:
        run_virtually(work())
    assert told == [caught.value]
