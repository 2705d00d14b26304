"""Where operating systems differ: what Linux does, and the others, simulated by what they lack."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import types

import pytest
from facezoo import machine, runs, system
from facezoo.errors import RunFolderError
from facezoo.runs import Inputs, RunFolder
from facezoo.written import LOCK_FILE, is_locked

MISSING_ON_WINDOWS = {
    os: ("killpg", "sched_getaffinity", "O_NONBLOCK", "O_CLOEXEC"),
    signal: ("SIGKILL", "SIGPIPE"),
}


class Msvcrt(types.ModuleType):
    """Locks of Windows: exclusive, per byte, refused with EACCES."""

    LK_NBLCK = 2

    def __init__(self):
        super().__init__("msvcrt")
        self.held = {}

    def locking(self, descriptor, how, count):
        assert (how, count) == (self.LK_NBLCK, 1)
        status = os.fstat(descriptor)
        holder = self.held.get((status.st_dev, status.st_ino))
        if holder is not None and holder != descriptor and is_open(holder):
            raise OSError(errno.EACCES, "Permission denied")
        self.held[status.st_dev, status.st_ino] = descriptor


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture
def windows(monkeypatch):
    """The module as Windows would import it."""
    for module, names in MISSING_ON_WINDOWS.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "O_BINARY", 0x8000, raising=False)
    # The same module object, so that those who hold it see the change.
    importlib.reload(system)
    monkeypatch.setattr(runs, "lock", system.lock)
    monkeypatch.setattr(runs, "remove_locked", system.remove_locked)
    monkeypatch.setattr("facezoo.written.lock", system.lock)
    monkeypatch.setattr(machine, "affine_cores", system.affine_cores)
    yield system
    monkeypatch.undo()
    importlib.reload(system)


def test_windows_has_other_numbers(windows):
    assert (windows.SIGKILL, windows.SIGPIPE) == (9, 13)
    assert windows.OPEN_AT_ONCE == 0x8000
    assert windows.affine_cores() == os.cpu_count()
    assert machine.granted_cores() >= 1
    windows.end_with_parent()  # Linux only; nothing happens.


@pytest.mark.parametrize("where", ["linux", "windows"])
def test_a_run_folder_has_one_owner(tmp_path, request, where):
    if where == "windows":
        request.getfixturevalue("windows")
    with RunFolder(tmp_path, command="test", settings={}, inputs=Inputs([], [])):
        assert is_locked(tmp_path / LOCK_FILE)
        other = RunFolder(tmp_path, command="test", settings={}, inputs=Inputs([], []))
        with pytest.raises(RunFolderError, match="in use by another run"), other:
            pass
    assert not (tmp_path / LOCK_FILE).exists()
    # What a killed run left is not held.
    (tmp_path / LOCK_FILE).touch()
    assert not is_locked(tmp_path / LOCK_FILE)
    with RunFolder(tmp_path, command="test", settings={}, inputs=Inputs([], [])):
        pass


def test_a_lock_is_closed_before_windows_removes_its_file(windows, tmp_path, monkeypatch):
    states = []
    path = tmp_path / "lock"
    file = path.open("a")
    unlink = type(path).unlink
    monkeypatch.setattr(
        type(path), "unlink", lambda self: (states.append(file.closed), unlink(self))
    )
    windows.remove_locked(file, path)
    assert states == [True] and not path.exists()


def test_a_lock_is_removed_before_linux_gives_it_back(tmp_path, monkeypatch):
    states = []
    path = tmp_path / "lock"
    file = path.open("a")
    unlink = type(path).unlink
    monkeypatch.setattr(
        type(path), "unlink", lambda self: (states.append(file.closed), unlink(self))
    )
    system.remove_locked(file, path)
    assert states == [False] and file.closed


def test_other_errors_of_a_lock_are_passed_on(windows, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.EINVAL, "no locks here")

    monkeypatch.setattr(windows.msvcrt, "locking", no_locks)
    with (tmp_path / "lock").open("a") as file, pytest.raises(OSError, match="no locks here"):
        windows.lock(file)


def test_folders_that_cannot_be_opened_or_synced_are_left(tmp_path, monkeypatch):
    system.sync_path(tmp_path)
    system.sync_path(tmp_path / "gone")

    def refuse(error):
        def raises(*_):
            raise OSError(error, os.strerror(error))

        return raises

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse(errno.EACCES))
        system.sync_path(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.EBADF))
        system.sync_path(tmp_path)
        patch.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(OSError, match="space"):
            system.sync_path(tmp_path)


@pytest.mark.parametrize("where", ["linux", "windows"])
def test_a_tool_that_hangs_is_killed(monkeypatch, where):
    if where == "windows":
        monkeypatch.delattr(os, "killpg")
    code = "import time; time.sleep(600)"
    options = system.in_own_group()
    assert ("start_new_session" in options) == (where == "linux")
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        system.kill_group(process)
        assert process.wait(60) == -9


def test_memory_is_known_where_the_system_tells_it(tmp_path, monkeypatch):
    status = tmp_path / "status"
    monkeypatch.setattr(system, "_STATUS", status)
    assert system.peak_memory() is None
    status.write_text("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n")
    assert system.peak_memory() == 2 << 20
    status.write_text("")
    assert system.peak_memory() is None


def test_macos_has_posix_locks_but_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(system.ctypes, "CDLL", None)  # No prctl; calling it would fail.
    assert system.affine_cores() == 3
    system.end_with_parent()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.affine_cores() == 1
