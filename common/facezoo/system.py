"""What operating systems do differently; no other module asks which one this is.

Linux is what was run. Windows and macOS were not: their branches follow the documents of Python and
are tested by taking away what they lack.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Dict, Optional

__all__ = [
    "HAS_CHANGE_TIME",
    "OPEN_AT_ONCE",
    "SIGKILL",
    "SIGPIPE",
    "affine_cores",
    "end_with_parent",
    "in_own_group",
    "kill_group",
    "lock",
    "peak_memory",
    "remove_locked",
    "sync_path",
]

try:
    import fcntl
except ImportError:  # Windows has another module.
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

# Do not wait for the writer of a pipe, do not leave the file to other programs, change no bytes.
OPEN_AT_ONCE = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))

# Elsewhere st_ctime is when a file was created, and does not tell of a change.
HAS_CHANGE_TIME = os.name != "nt"

# Numbers of POSIX, also where no signal has them.
SIGKILL = int(getattr(signal, "SIGKILL", 9))
SIGPIPE = int(getattr(signal, "SIGPIPE", 13))

_PR_SET_PDEATHSIG = 1  # source: Linux, include/uapi/linux/prctl.h
# Only Linux has it; it shows the memory of a process.
_STATUS = Path("/proc/self/status")


def affine_cores() -> int:
    """Return the number of cores that this process may run on; macOS and Windows have only all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lock(file: IO[Any], shared: bool = False) -> None:
    """Lock an open file without waiting; the lock ends with the process.

    Parameters
    ----------
    file
        An open file.
    shared
        Several processes may hold it, where the system has such locks.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    OSError
        If the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    elif msvcrt is not None:
        file.seek(0)
        try:
            # A byte may be locked where the file has none.
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise


def remove_locked(file: IO[Any], path: Path) -> None:
    """Remove a file that this process has locked, and close it.

    While it is locked, so that no one locks a file that is about to be removed; Windows removes
    only closed files.
    """
    if fcntl is None:
        file.close()
    path.unlink()
    file.close()


def sync_path(path: Path) -> None:
    """Write what a file or folder holds to the disk; nothing if it is gone or cannot be synced."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_AT_ONCE)
    except OSError:
        return  # Removed since, or a folder on Windows, which opens none.
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders; Windows syncs only what is open for writing.
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def end_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; only on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, SIGKILL)


def in_own_group() -> Dict[str, Any]:
    """Return arguments of ``subprocess.Popen`` for a process whose children can be killed too."""
    if hasattr(os, "killpg"):
        return {"start_new_session": True}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started with :func:`in_own_group`, and its children; not them on Windows."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, SIGKILL)
    else:
        process.kill()


def peak_memory() -> Optional[int]:
    """Return the peak resident memory of this process in bytes; None if unknown."""
    try:
        status = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(match[1]) * 1024 if match else None
