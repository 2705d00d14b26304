"""Commands that are stopped at random moments, and started again until they are done."""

import importlib.util
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
from facezoo.backends import ort
from facezoo.cli import options
from facezoo.testing import tiny_scrfd
from fault_table import COMMANDS, HERE, KILLS, SIGNALS, photos, photos_and, write_lists

RUNS = [name for name, command in COMMANDS.items() if command.resumes]
OTHERS = [name for name, command in COMMANDS.items() if command.writes and not command.resumes]
# Runs of each kind of loop: photos in threads, lists in processes, epochs.
OFTEN = ("predict", "vamp", "train.py, SDD-FIQA")
MANY, FEW = 60, 12
TIMES = 20

# A process for each start, from one that has everything imported already: forking this one, which
# may have threads, would not do.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "facezoo.pipeline.load",
        "facezoo.pipeline.photo",
        "facezoo.testing",
        "facezoo.evaluation.speed",
    ]
    + ["onnx.helper", "scipy.io", "facezoo.cli.main"]
    + ["facezoo.models.sdd_fiqa.train", "facezoo.graphs.export"]
    * bool(importlib.util.find_spec("torch"))
)


def run_here(name, folder, said, before=None):
    """Run a command in a folder, its errors into a file; the main function of a process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if before is not None:
        before()
    sys.exit(COMMANDS[name].run())


class Start:
    """One start of a command in the current folder."""

    def __init__(self, name, before=None):
        self.said = Path.cwd().with_name("said.txt")
        sys.path.insert(0, str(HERE))
        arguments = (name, str(Path.cwd()), str(self.said), before)
        self.process = CONTEXT.Process(target=run_here, args=arguments)
        self.process.start()
        sys.path.pop(0)

    def wait_for_handlers(self):
        """Wait until it catches SIGTERM, which is when a command begins."""
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.is_alive():
            caught = int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
            if caught >> signal.SIGTERM - 1 & 1:
                return
            time.sleep(0.002)

    def stop(self, number, seconds):
        """Send a signal after a time; return whether it was still running."""
        if number != signal.SIGKILL:
            self.wait_for_handlers()
        self.process.join(seconds)
        if self.process.is_alive():
            os.kill(self.process.pid, number)
            return True
        return False

    def end(self):
        """Wait for its end; return exit code and errors."""
        self.process.join(600)
        code = self.process.exitcode
        # As a shell has it.
        return 128 - code if code < 0 else code, self.said.read_text()


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """Make the inputs of a command, run it, and go back to before the run."""

    def make(name):
        command = COMMANDS[name]
        work, inputs = tmp_path / "work", tmp_path / "inputs"
        work.mkdir()
        monkeypatch.chdir(work)
        command.inputs(work)
        photos(work, FEW if command.torch else MANY)
        if (work / "img.list").exists():
            write_lists(work)
        for step in command.prepare:
            assert COMMANDS[step].run() == 0
        shutil.copytree(work, inputs)
        # The server's own start is no part of a run.
        first = CONTEXT.Process(target=int)
        first.start()
        first.join()
        started = time.monotonic()
        code, said = Start(name).end()
        assert code == 0, said
        seconds, results = time.monotonic() - started, command.results()
        restore(inputs, work)
        return inputs, results, seconds

    return make


def restore(inputs, work):
    os.chdir(inputs)
    shutil.rmtree(work)
    shutil.copytree(inputs, work)
    os.chdir(work)


def check(name, expected, seconds, signals, rng):
    """Stop a command with each signal, then let it end; return how many found it running."""
    command, hit = COMMANDS[name], 0
    for number in signals:
        start = Start(name)
        running = start.stop(number, rng.uniform(0.0, seconds))
        code, said = start.end()
        assert "Traceback" not in said, said
        if running and code != 0:
            assert code == SIGNALS[number.name], said
            if number != signal.SIGKILL:
                assert "run the same command again to resume" in said
        hit += running and code != 0
        for file, data in command.results().items():
            if not any(Path(file).match(pattern) for pattern in command.grows):
                assert data == expected[file], f"{file} is half-written"
    code, said = Start(name).end()
    assert code == 0, said
    assert command.results() == expected
    return hit


def torch_marked(names, *marks):
    return [
        pytest.param(
            name,
            marks=[
                *marks,
                *[pytest.mark.torch] * COMMANDS[name].torch,
                *[pytest.mark.long] * COMMANDS[name].rare,
            ],
        )
        for name in names
    ]


@pytest.mark.parametrize(
    "name",
    [
        *torch_marked(OFTEN),
        *torch_marked([name for name in RUNS if name not in OFTEN], pytest.mark.slow),
        *torch_marked(OTHERS, pytest.mark.long),
    ],
)
def test_interrupted_three_times_it_ends_as_if_it_had_not_been(undisturbed, name):
    _, expected, seconds = undisturbed(name)
    numbers = [getattr(signal, number) for number in SIGNALS]
    check(name, expected, seconds / 2, numbers, random.Random(name))


@pytest.mark.long
@pytest.mark.parametrize("name", torch_marked(RUNS))
def test_killed_twenty_times_it_ends_as_if_it_had_not_been(undisturbed, name):
    inputs, expected, seconds = undisturbed(name)
    rng, kills = random.Random(os.urandom(8)), 0
    began = time.monotonic()
    while kills < TIMES:
        kills += check(name, expected, seconds, [signal.SIGKILL], rng)
        restore(inputs, Path.cwd())
    note(name, kills, seconds, time.monotonic() - began)


def note(name, kills, whole, seconds):
    """Write what was found into the table of kills, in the order of the commands."""
    lines = KILLS.read_text().splitlines()[1:] if KILLS.exists() else []
    rows = {line[:25].rstrip(): line for line in lines}
    rows[name] = f"{name:25}{kills:8}{kills:17}{whole:20.2f}{seconds:16.0f}"
    head = "command                  SIGKILLs  resumed, equal  seconds of one run  seconds in all"
    ordered = [rows[each] for each in COMMANDS if each in rows]
    KILLS.write_text("\n".join([head, *ordered]) + "\n")


def never_answers():
    """Let every call of a network wait for ever, and Ctrl-C not wait for it long."""

    def run(graph, tensor):
        Path("hanging").touch()
        threading.Event().wait()

    mock.patch.object(ort._OrtGraph, "run", run).start()
    mock.patch.object(options, "STOP_SECONDS", 0.2).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_network_that_hangs_can_be_stopped(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    photos_and(tiny_scrfd)(tmp_path / "work")
    start = Start("scrfd_vsx.py", never_answers)
    while start.process.is_alive() and not Path("hanging").exists():
        time.sleep(0.01)
    assert start.stop(number, 0.0)
    code, said = start.end()
    assert code == SIGNALS[number.name]
    assert "something hung; run the same command again to resume" in said
    code, said = Start("scrfd_vsx.py").end()
    assert code == 0, said


def test_a_command_runs_in_a_thread_and_leaves_the_signals_alone(run_here):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run_here("list")))
    thread.start()
    thread.join()
    ((code, said, error),) = ended
    assert (code, error) == (0, "")
    assert "scrfd_500m_bnkps" in said
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


IN_THREADS = """
import os, sys, threading
from facezoo.cli.main import main
before = sys.stdout, sys.stderr, dict(os.environ)
def work(verb):
    for _ in range(8):
        assert main([verb, *sys.argv[1:]]) == 0
        codes.append(0)
codes = []
threads = [threading.Thread(target=work, args=(verb,)) for verb in 2 * ["list", "licences"]]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert (sys.stdout, sys.stderr, dict(os.environ)) == before
assert len(codes) == 32
"""


def test_commands_in_threads_leave_the_program_as_it_was():
    """Python itself crashed where one freed the stream that another printed to."""
    command = [sys.executable, "-c", IN_THREADS]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_vamp_that_loses_a_process_names_it_and_goes_on(undisturbed, capfd):
    _, expected, _ = undisturbed("vamp")
    command = COMMANDS["vamp"]

    def kill_one():
        while len(list(Path().glob("output/output_*.npz"))) < MANY // 4:
            time.sleep(0.002)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    code = command.run("-p", "2")
    killer.join()
    assert code == 2
    assert "was lost: signal 9, SIGKILL" in capfd.readouterr().err
    assert all(expected[file] == data for file, data in command.results().items())
    assert command.run("-p", "2") == 0
    assert command.results() == expected
