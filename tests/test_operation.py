"""A sweep that runs elsewhere: its live view, `status`, and how it is stopped; through nothing but the results root."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from s3_server import make_bucket, s3_server
from small_sweep import SmallSweep
from tiny_sweep import invoke

from sweeper.live import Display, render
from sweeper.live_file import LiveFile
from sweeper.live_state import KEPT_LINES, Line, RunState, decode, encode, file_name, new_lines
from sweeper.results import Results
from sweeper.storage.local import LocalStore
from sweeper.watching import SILENT, listen, run_of
from sweeper.worker import Finished

SPACE = """
EVALUATION = "quick"


def variants():
    return [{"num_epochs": 3000, "retrain": "none", "target/training/num_epochs": 1, "base_width": 2, "depth": 1, "codebook_size": 8}]
"""
SIZES = ["--set", "train_images=100", "--set", "validation_images=20", "--set", "test_images=20"]


def wait_for(is_so: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Results(tmp_path / "results", create=True)
    return tmp_path / "results"


@pytest.fixture
def files(root: Path) -> LocalStore:
    return LocalStore(root)


@pytest.fixture
def display(sweep: SmallSweep) -> Display:
    """A display that has seen a stage, a failure, a success, and shows a trial that runs."""
    display = Display(Console(file=io.StringIO(), width=120), slots=2)
    first, second, third = sweep.plan.trials
    display.begin(sweep.plan.title, sweep.plan.stages[:2], 3, 1)
    display.stage_started(sweep.plan.stages[0])
    display.stage_ended(sweep.plan.stages[0])
    display.stage_started(sweep.plan.stages[1])
    display.trial_ended(first, Finished(*first.key, "failed", "nan", "loss is nan", "some.log", seconds=1.0))
    display.trial_ended(second, Finished(*second.key, "completed", figures={"clean_accuracy": 0.5}, seconds=40.0))
    display.trial_progress(third, "train", 3, 10, {"loss": 0.125})
    display.state.sweep, display.state.plan_hash = sweep.plan.sweep, sweep.plan.plan_hash
    return display


@pytest.fixture
def begin(files: LocalStore, display: Display) -> Iterator[Callable[..., LiveFile]]:
    """Give what begins to write a state into the root, quicker than a run does."""
    open_files: list[LiveFile] = []

    def begin(into: LocalStore = files, **more: Any) -> LiveFile:
        file = LiveFile(display.state, into, **{"say": lambda text: None, "stop": lambda: None, "period": 0.05, **more})
        open_files.append(file.__enter__())
        wait_for(lambda: display.state.updated and (into is not files or files.stat("live/small.json")))
        return file

    yield begin
    for file in open_files:
        file.__exit__(None, None, None)


@pytest.fixture
def silent(begin: Callable[..., LiveFile], files: LocalStore, root: Path, display: Display) -> Callable[[float], None]:
    """Give what leaves the file of a run that was last heard of so many seconds ago."""

    def leave(seconds: float) -> None:
        begin().__exit__(None, None, None)
        display.state.status, display.state.exit_status, display.state.host = "running", None, "far"
        files.replace("live/small.json", encode(display.state, time.monotonic()))
        os.utime(root / "live/small.json", (time.time() - seconds, time.time() - seconds))

    return leave


def drawn(state: RunState, now: float) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(render(state, now))
    return out.getvalue()


# The state and its file


def test_what_is_shown_elsewhere_is_what_the_runs_own_terminal_shows(display: Display) -> None:
    now = time.monotonic()
    there = decode(encode(display.state, now), 1000.0)  # another machine's monotonic clock has another origin
    assert drawn(there, 1000.0) == drawn(display.state, now)
    assert "train 3/10" in drawn(there, 1000.0) and "loss 0.1250" in drawn(there, 1000.0) and "failed (nan): loss is nan" in drawn(there, 1000.0)


def test_a_state_says_what_a_program_wants_to_know(display: Display, sweep: SmallSweep) -> None:
    said = json.loads(encode(display.state, time.monotonic()))
    assert (said["sweep"], said["plan_hash"], said["status"]) == ("small", sweep.plan.plan_hash, "running")
    assert (said["stages_done"], said["stages_total"], said["done"], said["total"], said["failed"]) == (1, 2, 2, 3, 1)
    (running,) = said["running"].values()
    assert (running["trial_id"], running["seed"], running["stage"], running["figures"]) == (
        sweep.plan.trials[2].trial_id,
        sweep.plan.trials[2].config.seed,
        "train",
        {"loss": 0.125},
    )
    assert said["seconds_left"] == pytest.approx(1 * 41 / 2 / 2)


def test_what_a_newer_version_adds_is_passed_over_and_damage_is_named() -> None:
    values = json.loads(encode(RunState(sweep="a"), 0.0))
    assert decode(json.dumps({**values, "colour": "red"}).encode(), 0.0).sweep == "a"
    for content in (b"", b"{}", b"[]", b'{"sweep": "a"}', encode(RunState(), 0.0)[:-20]):
        with pytest.raises(ValueError, match="not the state of a run"):
            decode(content, 0.0)


def test_a_reader_that_is_late_is_told_how_many_lines_it_missed() -> None:
    state = RunState()
    for number in range(KEPT_LINES + 7):
        state.say(Line(str(number)))
    lines, lost = new_lines(state, 5)
    assert (lost, lines[0].text, lines[-1].text) == (2, "7", str(KEPT_LINES + 6))
    assert new_lines(state, state.said) == ([], 0)


def test_the_file_is_named_like_the_folder_of_the_logs() -> None:
    assert file_name("search/pareto") == "live/search_pareto.json"
    assert file_name("file:own@12") == "live/own@12.json"


# Writing it


@pytest.mark.parametrize(
    ("error", "status", "exit_status"),
    [(None, "finished", 1), (KeyboardInterrupt(), "interrupted", 130), (ValueError("bad"), "failed", 2), (RuntimeError("boom"), "failed", 1)],
)
def test_the_file_follows_the_run_and_says_how_it_ended(
    begin: Callable[..., LiveFile], files: LocalStore, display: Display, sweep: SmallSweep, error: BaseException | None, status: str, exit_status: int
) -> None:
    file = begin()
    trial = sweep.plan.trials[2]
    display.trial_progress(trial, "train", 9, 10, {})
    wait_for(lambda: b'"done": 9' in files.read("live/small.json"))
    file.__exit__(type(error) if error else None, error, None)
    heard = run_of(files, "small")
    assert heard is not None
    assert (heard.state.status, heard.state.exit_status) == (status, exit_status)
    assert str(error or "") in heard.state.message


def test_nothing_is_written_before_the_root_is_there(tmp_path: Path) -> None:
    state = RunState(sweep="small")
    with LiveFile(state, LocalStore(tmp_path / "none"), say=pytest.fail, stop=lambda: None, period=0.01):
        time.sleep(0.2)
    assert not (tmp_path / "none").exists()


def test_a_root_that_takes_no_file_is_told_once_and_ends_nothing(begin: Callable[..., LiveFile], files: LocalStore) -> None:
    class Full(LocalStore):
        writes = 0

        def replace(self, name: str, content: bytes) -> None:
            Full.writes += 1
            raise OSError(28, "No space left on device")

    said: list[str] = []
    begin(Full(files.root), say=said.append)
    wait_for(lambda: Full.writes > 3)
    assert len(said) == 1
    assert "No space left" in said[0] and "live/small.json" in said[0]


def test_an_interruption_while_the_end_is_written_is_how_it_ended(
    begin: Callable[..., LiveFile], files: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begin()

    def join(timeout: float | None = None) -> None:
        monkeypatch.undo()
        file._thread.join(timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(file._thread, "join", join)  # as Ctrl-C does that falls into it
    with pytest.raises(KeyboardInterrupt):
        file.__exit__(None, None, None)
    heard = run_of(files, "small")
    assert heard is not None and (heard.state.status, heard.state.exit_status) == ("interrupted", 130)


def test_a_root_that_does_not_answer_holds_the_end_of_a_run_up_for_seconds_only(
    begin: Callable[..., LiveFile], files: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.live_file.PATIENCE", 0.3)
    answers = threading.Event()

    class Silent(LocalStore):
        def replace(self, name: str, content: bytes) -> None:
            answers.wait(30)

    said: list[str] = []
    file, since = begin(Silent(files.root), say=said.append), time.monotonic()
    file.__exit__(None, None, None)
    took = time.monotonic() - since
    answers.set()
    assert took < 5
    assert len(said) == 1 and "is not written into live/small.json" in said[0]


def test_a_run_heeds_the_request_that_names_it_and_no_other(begin: Callable[..., LiveFile], files: LocalStore, display: Display) -> None:
    stopped = threading.Event()
    file = begin(stop=stopped.set)
    files.replace("stop/small.json", json.dumps({"run": "an earlier one", "host": "laptop"}).encode())
    assert not stopped.wait(0.3)
    files.replace("stop/small.json", json.dumps({"run": display.state.run, "host": "laptop"}).encode())
    assert stopped.wait(5)
    assert files.stat("stop/small.json") is None
    file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    heard = run_of(files, "small")
    assert heard is not None and (heard.state.status, heard.state.message, heard.state.exit_status) == (
        "stopped",
        "stopped by `stop` from laptop",
        130,
    )


# Watching


def test_watch_says_what_the_run_says_and_ends_with_its_exit_status(begin: Callable[..., LiveFile], root: Path, display: Display) -> None:
    file = begin()

    def end() -> None:
        time.sleep(0.5)
        display.state.say(Line("one more line"))
        file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    thread = threading.Thread(target=end)
    thread.start()
    result = invoke("watch", "small", "--results", root)
    thread.join()
    assert result.exit_code == 130
    assert "FAILED (nan): loss is nan" in result.stderr and "one more line" in result.stderr
    assert "has ended: interrupted (2/3 trials ended, 1 failed)" in result.stderr
    assert result.stdout == ""


def test_watch_once_prints_the_picture_and_json_the_values(begin: Callable[..., LiveFile], root: Path) -> None:
    begin()
    once = invoke("watch", "small.py", "--results", root, "--once")
    assert once.exit_code == 0
    assert "train 3/10" in once.stdout and "2/3 finished, 1 failed" in once.stdout
    values = json.loads(invoke("watch", "small", "--results", root, "--once", "--json").stdout)
    assert values["status"] == "running" and values["silence"] < SILENT


def test_a_run_that_is_silent_may_be_dead_and_watch_says_so(silent: Callable[[float], None], root: Path, files: LocalStore) -> None:
    silent(43)
    result = invoke("watch", "small", "--results", root, "--once")
    assert "last heard of 43 s ago on far: it may be dead; `run` again continues" in result.stdout.replace("\n", " ")
    assert result.exit_code == 1
    heard = listen(files, "live/small.json")
    assert heard is not None and heard.is_silent and not heard.is_alive and not heard.is_dead


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["lines", "json"])
def test_watch_ends_when_a_run_has_been_silent_for_minutes(
    silent: Callable[[float], None], root: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    silent(43)
    monkeypatch.setattr("sweeper.watching.DEAD", 45.5)
    since = time.monotonic()
    result = invoke("watch", "small", "--results", root, *more)
    assert 1 < time.monotonic() - since < 20
    assert result.exit_code == 1
    if more:
        assert json.loads(result.stdout.splitlines()[-1])["silence"] > 45
    else:
        assert "it seems dead; `run` again continues" in result.stderr


def test_status_shows_its_table_beside_a_damaged_file_of_the_run(sweep: SmallSweep, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(sweep.root, root)
    (root / "live").mkdir(exist_ok=True)
    (root / "live/small.json").write_text("{")
    result = invoke("status", "small", "--results", root)
    assert result.exit_code == 0
    assert "3 of 3 trials completed" in result.stdout
    assert "live/small.json is damaged: not the state of a run" in (result.stdout + result.stderr).replace("\n", " ")


def test_watch_waits_for_a_run_to_begin(begin: Callable[..., LiveFile], root: Path) -> None:
    timer = threading.Timer(0.7, begin)
    timer.start()
    result = invoke("watch", "small", "--results", root, "--once", "--wait", "20")
    timer.join()
    assert "2/3 finished" in result.stdout


def test_a_sweep_that_was_never_run_is_refused_with_those_there_are(begin: Callable[..., LiveFile], root: Path) -> None:
    begin()
    result = invoke("watch", "smal", "--results", root)
    assert result.exit_code == 2
    assert "no run of 'smal' was seen" in result.stderr and "did you mean 'small'" in result.stderr


def test_what_a_command_runs_after_the_sweep_is_watched_under_its_name(files: LocalStore) -> None:
    files.replace("live/a.json", encode(RunState(sweep="a", status="finished"), 0.0))
    files.replace("live/a_pareto.json", encode(RunState(sweep="a/pareto"), 0.0))
    heard = run_of(files, "a")
    assert heard is not None and heard.state.sweep == "a/pareto"
    files.replace("live/a_pareto.json", encode(RunState(sweep="a/pareto", status="finished"), 0.0))
    heard = run_of(files, "a")
    assert heard is not None and heard.state.sweep == "a"


def test_watching_imports_neither_torch_nor_ray(begin: Callable[..., LiveFile], root: Path) -> None:
    begin().__exit__(None, None, None)
    words = [["watch", "small", "--results", str(root), *more] for more in ([], ["--once"], ["--json"])] + [["stop", "small", "--results", str(root)]]
    script = f"""
import sys
from typer.testing import CliRunner
from sweeper.cli import app
for words in {words!r}:
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert not {{"torch", "ray"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_bucket_serves_as_well_as_a_folder(display: Display, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "someone"), ("AWS_SECRET_ACCESS_KEY", "geheim"), ("AWS_CONFIG_FILE", str(tmp_path / "none"))):
        monkeypatch.setenv(name, value)
    with s3_server() as server:
        make_bucket(server, "results")
        url = f"s3://results/some?endpoint_override={server.removeprefix('http://')}&scheme=http"
        store = Results(url, create=True).folder.store
        stopped = threading.Event()
        with pytest.raises(KeyboardInterrupt), LiveFile(display.state, store, say=pytest.fail, stop=stopped.set, period=0.2):
            wait_for(lambda: store.stat("live/small.json"))
            assert "train 3/10" in invoke("watch", "small", "--results", url, "--once").stdout
            store.replace("logs/small/ab12.log", b"of another node\n")
            assert invoke("logs", "ab", "--results", url).stdout == "of another node\n"
            assert invoke("stop", "small", "--results", url, "--timeout", "1").exit_code == 1
            assert stopped.wait(10)
            raise KeyboardInterrupt
        assert "has ended: stopped by" in invoke("watch", "small", "--results", url).stderr


# Stopping


def test_stop_says_that_nothing_runs(begin: Callable[..., LiveFile], root: Path, files: LocalStore) -> None:
    begin().__exit__(None, None, None)
    ended = invoke("stop", "small", "--results", root)
    assert ended.exit_code == 0 and "no run of small goes on: the last one" in ended.stderr
    assert files.stat("stop/small.json") is None


def test_stop_refuses_a_name_of_which_no_run_was_seen(begin: Callable[..., LiveFile], root: Path) -> None:
    begin().__exit__(None, None, None)
    result = invoke("stop", "smal", "--results", root)
    assert result.exit_code == 2
    assert "no run of 'smal' was seen" in result.stderr and "did you mean 'small'" in result.stderr


def test_stop_of_a_run_that_seems_dead_says_so_at_once_and_asks_nothing(silent: Callable[[float], None], root: Path, files: LocalStore) -> None:
    silent(43)
    since = time.monotonic()
    result = invoke("stop", "small", "--results", root)
    assert time.monotonic() - since < 10
    assert result.exit_code == 1
    assert re.search("last heard of 4[3-9] s ago: it seems dead; nothing to stop; the same `run` continues", result.stderr)
    assert files.stat("stop/small.json") is None


def test_a_run_that_begins_deletes_what_an_earlier_one_was_asked(begin: Callable[..., LiveFile], files: LocalStore) -> None:
    for name in ("small", "other"):
        files.replace(f"stop/{name}.json", json.dumps({"run": "an earlier one", "host": "laptop"}).encode())
    begin()
    assert files.stat("stop/small.json") is None
    assert files.stat("stop/other.json") is not None


def test_stop_tells_of_a_run_that_does_not_end(begin: Callable[..., LiveFile], root: Path) -> None:
    begin()
    result = invoke("stop", "small", "--results", root, "--timeout", "0.5")
    assert result.exit_code == 1
    assert "has not ended within 0.5 s" in result.stderr


def test_a_run_that_is_stopped_from_elsewhere_ends_like_one_that_is_interrupted_and_continues(tmp_path: Path) -> None:
    space, root = tmp_path / "long.py", tmp_path / "results"
    space.write_text(SPACE)
    run = [sys.executable, "-m", "sweeper", "run", str(space), "--inline", "--results", str(root), *SIZES]

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as Ray does to the processes of its jobs

    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=block)
    try:
        heard = wait_for(lambda: _alive(root) or process.poll() is not None, 120)
        assert process.poll() is None and heard
        wait_for(lambda: "train" in (root / "live/long.json").read_text(), 60)
        status = invoke("status", "long", "--results", root)
        assert f"Running now on {os.uname().nodename} (process {process.pid})" in status.stdout
        since = time.monotonic()
        result = invoke("stop", "long", "--results", root, "--from", "laptop")
        took = time.monotonic() - since
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (result.exit_code, process.returncode) == (0, 130), said
    assert "stopped by `stop` from laptop; what was computed is stored, and the same command continues" in said
    assert "stopped by `stop` from laptop (0/1 trials ended" in result.stderr
    assert took < 15
    assert "Not running; the last run" in invoke("status", "long", "--results", root).stdout
    again = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: _alive(root), 120)
        time.sleep(2.5)  # longer than a period: the request is not heard again
        assert again.poll() is None
    finally:
        again.kill()


def _alive(root: Path) -> bool:
    with suppress(FileNotFoundError):
        heard = run_of(LocalStore(root), "long")
        return heard is not None and heard.is_alive
    return False


def test_a_run_that_is_waited_for_may_have_to_make_its_root_first(tmp_path: Path) -> None:
    root = tmp_path / "later"
    watching = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "watch", "tiny", "--wait", "60", "--results", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(1.5)
    assert watching.poll() is None
    watching.kill()
    watching.communicate()
    refused = invoke("watch", "tiny", "--wait", "0.1", "--results", root)
    assert refused.exit_code == 2 and "no results under" in refused.stderr
