"""Worker processes: order, errors as results and as ends, losses that are named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from facezoo.errors import BackendRunError, ImageError, InputError
from facezoo.workers import Last, Team, map_in_processes, name_exit


def double(number, slow=0.0, bad=None, lost=None):
    if number == bad:
        raise InputError(f"{number} is bad")
    if number == lost:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(slow * (number % 3))
    return 2 * number


def refuse(number):
    return ImageError(f"'{number}' is refused")


def crash(number):
    raise KeyError(number)


def full_disk(number):
    raise OSError(28, "No space left on device", "x.npz")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11])
@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_items(count, processes):
    results = map_in_processes(partial(double, slow=0.002), range(count), processes)
    assert list(results) == [2 * number for number in range(count)]


def test_an_error_may_be_a_result():
    assert [str(error) for error in map_in_processes(refuse, [1, 2], 2)] == [
        "'1' is refused",
        "'2' is refused",
    ]


def test_an_error_ends_the_work_where_its_result_would_have_come():
    results = map_in_processes(partial(double, bad=3), range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(InputError, match="3 is bad"):
        next(results)
    with pytest.raises(OSError, match="No space left on device"):
        list(map_in_processes(full_disk, [1], 1))


def test_a_lost_process_is_named_with_the_reason():
    with pytest.raises(BackendRunError) as caught:
        list(map_in_processes(partial(double, lost=4), range(9), 3))
    assert "worker process 2 of 3 (pid " in str(caught.value)
    assert "was lost: signal 9, SIGKILL, perhaps out of memory" in str(caught.value)
    with pytest.raises(BackendRunError, match="was lost: exit code 1"):
        list(map_in_processes(crash, range(2), 1))


def test_every_way_to_end_has_words():
    assert name_exit(3) == "exit code 3" and name_exit(-15) == "signal 15, SIGTERM"
    assert name_exit(-(signal.SIGRTMIN + 1)) == f"signal {signal.SIGRTMIN + 1}"


def nap(connection, seconds):
    time.sleep(seconds)
    connection.send(Last(os.getpid()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loss_is_noticed_while_another_process_is_waited_for(method):
    with pytest.raises(BackendRunError, match="process 2 of 2"), Team(
        nap, [(60,), (60,)], method
    ) as team:
        os.kill(team.workers[1].process.pid, signal.SIGKILL)
        list(team.in_turn())
    assert all(not worker.process.is_alive() for worker in team.workers)


def test_the_last_words_are_kept_by_process():
    with Team(nap, [(0.05,), (0.0,)]) as team:
        assert list(team.in_turn()) == []
        pids = [worker.process.pid for worker in team.workers]
        assert [team.last[rank] for rank in range(2)] == pids


def test_an_early_end_leaves_no_process_behind():
    results = map_in_processes(partial(double, slow=0.01), range(10**6), 2)
    assert next(results) == 0
    results.close()
    assert multiprocessing.active_children() == []


PARENT = """
import ctypes, sys, threading, time
from facezoo.workers import Team

def busy(connection):
    time.sleep(600)

def hung(connection):
    ctypes.PyDLL(None).sleep(600)  # No other thread of the process runs meanwhile.

def main(work, method, count):
    with Team(globals()[work], [()] * int(count), method) as team:
        print(*(worker.process.pid for worker in team.workers), flush=True)
        time.sleep(600)

if __name__ == "__main__":
    if sys.argv[4] == "main":
        main(*sys.argv[1:4])
    thread = threading.Thread(target=main, args=sys.argv[1:4])
    thread.start()
    thread.join()
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="tells by /proc which processes run")
@pytest.mark.parametrize(
    ("work", "method", "count", "starter"),
    [
        ("busy", "fork", 3, "main"),
        ("busy", "fork", 3, "thread"),
        ("busy", "spawn", 2, "main"),
        ("busy", "spawn", 1, "thread"),
        ("hung", "fork", 2, "main"),
        ("hung", "spawn", 1, "main"),
    ],
)
def test_workers_end_with_a_killed_parent(tmp_path, work, method, count, starter):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), work, method, str(count), starter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = list(map(int, parent.stdout.readline().split()))
        time.sleep(0.5 if method == "fork" else 2.0)  # They have begun to work.
        assert len(pids) == count and all(map(is_running, pids))
        parent.kill()
        parent.wait()
        try:
            deadline = time.monotonic() + 10
            while any(map(is_running, pids)) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert [pid for pid in pids if is_running(pid)] == []
        finally:
            for pid in filter(is_running, pids):
                os.kill(pid, signal.SIGKILL)
