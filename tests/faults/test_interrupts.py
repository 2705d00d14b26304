"""Commands that are stopped at random moments, and started again until they are done."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_table import COMMANDS, REPOSITORY, photos

RUNS = [name for name, command in COMMANDS.items() if command.resumes]
EXITS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
PHOTOS = 60


def start(command):
    program = [REPOSITORY / command.script] if command.script else ["-m", "facezoo.cli.main"]
    return subprocess.Popen(
        [sys.executable, *map(str, program), *command.arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def journal_lines(command):
    for name in command.writes:
        path = Path(name, ".items.jsonl")
        if path.exists():
            return path.read_bytes().count(b"\n")
    return 0


def stop(process, command, number, items):
    """Send a signal once so many items are done; return whether it was still running."""
    while process.poll() is None and journal_lines(command) < items:
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    process.send_signal(number)
    return True


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """Make the inputs of a command, run it, and go back to before the run."""

    def make(command):
        work, inputs = tmp_path / "work", tmp_path / "inputs"
        work.mkdir()
        monkeypatch.chdir(work)
        command.inputs(work)
        photos(work, PHOTOS)
        for step in command.prepare:
            assert COMMANDS[step].run() == 0
        shutil.copytree(work, inputs)
        assert command.run() == 0
        results = command.results()
        monkeypatch.chdir(inputs)
        shutil.rmtree(work)
        shutil.copytree(inputs, work)
        monkeypatch.chdir(work)
        return results

    return make


def check(command, expected, signals, rng):
    kept = 0
    for number in signals:
        process = start(command)
        running = stop(process, command, number, kept + rng.randint(1, PHOTOS // 3))
        said = process.communicate(timeout=60)[1]
        assert "Traceback" not in said, said
        if running and process.returncode != 0:
            assert process.returncode == EXITS[number], said
            if number != signal.SIGKILL:
                assert "the same command goes on from here" in said
        for name, data in command.results().items():
            assert data == expected[name], f"{name} is half-written"
        kept = journal_lines(command)
    process = start(command)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert command.results() == expected


@pytest.mark.parametrize("name", RUNS)
def test_interrupted_three_times_it_ends_as_if_it_had_not_been(undisturbed, name):
    command = COMMANDS[name]
    expected = undisturbed(command)
    check(command, expected, EXITS, random.Random(name))


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_killed_twenty_times_it_ends_as_if_it_had_not_been(undisturbed, name):
    command = COMMANDS[name]
    expected = undisturbed(command)
    rng = random.Random(os.urandom(8))
    for _ in range(20):
        check(command, expected, [signal.SIGKILL], rng)
        for path in command.writes:
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        # What a command writes beside its inputs is written again.
        for path in Path().glob("list.txt.manifest.json"):
            if "list.txt" in command.writes:
                path.unlink()
