"""Bulk runs whose processes are killed, hang, or find the disk full: every photo is there once."""

import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra scale")
from bulk import make_job, make_run, parts, receipts, start, tables, write_run
from facezoo.cli.main import main
from facezoo.scale.addresses import Found
from facezoo.scale.local import score_locally
from facezoo.scale.manifest import Cut, write_manifest
from facezoo.scale.outcome import check, failures, merge
from facezoo.scale.scorer import BulkJob
from facezoo.scale.tables import Columns
from facezoo.scale.work import Scores, Work
from fault_table import HERE
from planted import Stub

PHOTOS, PER_SHARD, PROCESSES, TIMES = 60, 5, 2, 20
# What was killed twenty times each, and resumed; rewritten by that test.
RECORD = HERE / "bulk_kills.txt"
HEAD = "engine  killed  SIGKILLs  finished, equal  photos scored twice"
# What a run of a million rows measured, with a stub in place of the networks.
STUBS = HERE / "bulk_rows.txt"
VICTIMS = {
    "local": ("worker", "driver"),
    "ray": ("worker", "raylet", "driver"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_abandons_the_shards_at_work_and_leaves_nothing_half_written(slow, number):
    run, expected = slow
    started = Started(run, "local")
    started.begin()
    assert started.wait_for(2)
    processes = [pid for pid, _ in below(started.process.pid)]
    os.kill(started.process.pid, number)
    assert started.end() == 128 + number
    said = (run.parent / "said.txt").read_text()
    assert "run the same command again to resume" in said and "Traceback" not in said
    # The kernel ends the workers with their parent, and lists them until it has.
    ends_by = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < ends_by
        time.sleep(0.1)
    assert list(run.rglob(".facezoo.*")) == []
    assert 2 <= len(receipts(run)) < PHOTOS / PER_SHARD
    finish(run, "local", expected)


def counted(work):
    return {status: count for status, count in work.counts.items() if count}


@pytest.mark.slow
@pytest.mark.parametrize("mark", [b"ABORT", b"HANG"])
def test_a_photo_that_ends_its_process_or_hangs_is_named_and_the_rest_is_done(tmp_path, mark):
    run = make_run(tmp_path, 10, 4, {5: mark})
    seconds = 60.0 if mark == b"ABORT" else 2.0
    work = start(run, "local", seconds)
    scores = work.scores
    assert counted(work) == {"scored": 9, "killed": 1}
    assert list(failures(scores)) == [("2/005.png", "the process that scored it was lost 2 times")]
    assert list(check(scores)) == []
    # Twice with the shard of four, once with two of them, twice alone.
    assert sum(scores.deaths().values()) <= 5
    assert Work(scores).kept == 10


def test_a_process_that_dies_while_it_opens_the_models_ends_the_run(tmp_path, capsys):
    run = make_run(tmp_path, 2, 1)
    (tmp_path / "embedder.onnx").unlink()
    command = ["score", "run", str(run), "--detector", str(tmp_path / "detector.onnx"), "--quiet"]
    assert main([*command, "--embedder", str(tmp_path / "embedder.onnx")]) == 2
    assert "embedder.onnx" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_the_same_command_finishes_it(tmp_path):
    run = make_run(tmp_path, 8, 4)
    scores, job = make_job(run)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            list(score_locally(Work(scores), job, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename.endswith(".parquet")
    assert parts(run) == {} and receipts(run) == []
    assert start(run, "local").done == 8
    assert list(check(scores)) == []


class Started:
    """A bulk run in a process of its own."""

    def __init__(self, run, engine):
        self.run, self.engine = run, engine
        self.process = None

    def begin(self):
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        command = [sys.executable, str(HERE / "bulk.py"), str(self.run), self.engine]
        with (self.run.parent / "said.txt").open("ab") as said:
            self.process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said, start_new_session=True
            )

    def wait_for(self, more, seconds=120):
        """Wait until so many more parts are done; return whether it is still running."""
        wanted, end = len(receipts(self.run)) + more, time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if len(receipts(self.run)) >= wanted:
                return True
            time.sleep(0.02)
        return self.process.poll() is None

    def victims(self, kind):
        """Return the processes of the run that play a part in it."""
        if kind == "driver":
            return [self.process.pid]
        pattern = {"worker": r"^ray::_Actor" if self.engine == "ray" else r"spawn_main"}
        pattern["raylet"] = r"^\S*/raylet/raylet "
        return [pid for pid, line in below(self.process.pid) if re.search(pattern[kind], line)]

    def end(self):
        """Wait for its end; return its exit code, or kill it if it hangs."""
        try:
            return self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def below(root):
    """Return number and command line of all processes below one."""
    children, lines = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "stat").read_text()
            lines[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(path.name))
    found, waiting = [], [root]
    while waiting:
        waiting += children.get(waiting[0], [])
        found.append((waiting[0], lines.get(waiting.pop(0), "")))
    return found


@pytest.fixture
def slow(tmp_path):
    """Return a run of photos that take a moment each, and what its merged tables must be."""
    run = make_run(tmp_path, PHOTOS, PER_SHARD, {index: b"WAIT" for index in range(PHOTOS)})
    undisturbed = write_run(tmp_path, PER_SHARD, "undisturbed")
    expected = merged(start(undisturbed, "local").scores)
    (tmp_path / "decoded").unlink()
    return run, expected


def merged(scores):
    merge(scores, scores.run / "merged")
    return tables(scores.run / "merged")


def kill(run, engine, kind, times, rng):
    """Kill one kind of process so often, each time in the middle; return how often it was hit."""
    started, hit = Started(run, engine), 0
    started.begin()
    tries = 0
    while hit < times and tries < 5 * times:
        tries += 1
        if started.process.poll() is not None or not started.wait_for(1):
            # It is finished before it was hit so often: from the start.
            assert started.end() in (0, 1, 2, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)
            for path in (*run.glob("receipts/*/*"), *run.glob("deaths/*/*")):
                path.unlink()
            (run.parent / "decoded").unlink(missing_ok=True)
            started.begin()
            continue
        time.sleep(rng.uniform(0.0, 0.3))
        victims = started.victims(kind)
        if victims and started.process.poll() is None:
            os.kill(rng.choice(victims), signal.SIGKILL)
            hit += 1
            if kind != "worker":
                started.end()
    started.end()
    return hit


def finish(run, engine, expected):
    """Run the same command again, and check that every photo is there once."""
    started = Started(run, engine)
    started.begin()
    assert started.end() == 0, (run.parent / "said.txt").read_text()[-3000:]
    scores, _ = make_job(run)
    assert list(check(scores)) == []
    assert merged(scores) == expected


def killed_and_finished(slow, engine, kind, times, processes=PROCESSES):
    """Kill processes of one kind, finish the run, return how many photos were scored twice."""
    run, expected = slow
    assert kill(run, engine, kind, times, random.Random(5)) == times
    finish(run, engine, expected)
    # Actors outlive their driver by a moment, and may write a part between two of its starts.
    again = max(0, (run.parent / "decoded").stat().st_size - PHOTOS)
    # Each process that ends with it loses the part that it is at.
    assert again <= times * PER_SHARD * (1 if kind == "worker" else processes)
    return again


@pytest.mark.scale
@pytest.mark.parametrize("kind", VICTIMS["local"])
def test_killed_at_random_moments_it_is_finished_by_the_same_command(slow, kind):
    killed_and_finished(slow, "local", kind, 3)


@pytest.mark.scale
@pytest.mark.parametrize("kind", VICTIMS["ray"])
def test_killed_under_ray_it_is_finished_by_the_same_command(slow, kind):
    need_ray()
    killed_and_finished(slow, "ray", kind, 3)


@pytest.mark.scale
def test_a_photo_that_ends_its_process_is_named_under_ray(tmp_path):
    need_ray()
    run = make_run(tmp_path, 10, 4, {5: b"ABORT"})
    started = Started(run, "ray")
    started.begin()
    assert started.end() == 0, (tmp_path / "said.txt").read_text()[-3000:]
    scores, _ = make_job(run)
    assert [photo for photo, _ in failures(scores)] == ["2/005.png"]
    assert list(check(scores)) == []
    assert Work(scores).counts == {
        "scored": 9,
        "damaged": 0,
        "unreadable": 0,
        "changed": 0,
        "killed": 1,
    }


@pytest.mark.scale
@pytest.mark.long
@pytest.mark.parametrize(("engine", "kind"), [(e, kind) for e in VICTIMS for kind in VICTIMS[e]])
def test_killed_twenty_times_it_is_finished(slow, engine, kind):
    need_ray()
    again = killed_and_finished(slow, engine, kind, TIMES)
    row = f"{engine:6}  {kind:6}  {TIMES:8}  {'yes':>15}  {again:19}"
    known = RECORD.read_text().splitlines()[1:] if RECORD.exists() else []
    rows = {line[:14]: line for line in known}
    rows[row[:14]] = row
    RECORD.write_text("\n".join([HEAD, *sorted(rows.values())]) + "\n")


def need_ray():
    """Skip a test without Ray; imported here, it would not stay local in the tests that follow."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray (make test-all)")


def resident():
    """Return the memory of this process in MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def run_stubs(folder, rows, per_shard):
    """Score photos that do not exist; yield this process's memory after each part."""
    photos = (Found(f"camera/{index:07d}.jpg", 100_000, index) for index in range(rows))
    write_manifest(folder, "", photos, Cut(None, per_shard))
    scores = Scores.create(folder, Stub().settings(), Columns(0, 512, "float16"))
    work = Work(scores)
    for _ in score_locally(work, BulkJob(folder, scores.identity, pickle.dumps(Stub()), 60.0), 2):
        yield resident()
    assert work.counts["scored"] == rows
    assert sum(one["faces"] for one in receipts(folder)) == rows


@pytest.mark.slow
def test_the_driver_holds_no_rows(tmp_path):
    measured = list(run_stubs(tmp_path / "run", 20_000, 1000))
    assert len(measured) == 20
    assert max(measured) - measured[0] < 50


@pytest.mark.long
def test_a_million_rows_leave_the_drivers_memory_flat(tmp_path):
    started = time.monotonic()
    measured = list(run_stubs(tmp_path / "run", 1_000_000, 2000))
    seconds = time.monotonic() - started
    assert max(measured) - measured[0] < 50
    line = (
        f"1,000,000 rows: {1e6 / seconds:,.0f} rows/s with the manifest; driver "
        f"{measured[0]:.0f} MiB at first, {max(measured):.0f} at most\n"
    )
    print(line)
    STUBS.write_text(line)
