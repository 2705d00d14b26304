"""What all tests share: where the assets and large goldens are, and a seeded generator."""

import gc
import os
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest
from facezoo.cli.main import main as facezoo_main
from facezoo.machine import granted_cores
from hypothesis import settings

# The processes of a run share the cores. Each with threads for all of them, they would mostly wait
# for one another.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = granted_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

# Hypothesis would report an example that is slow on a busy machine as a failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# No test loses power, so none waits for the disk. Tests of what is synced look at the calls.
os.fsync = lambda descriptor: None

# Started in the background, this process ignores Ctrl-C, and so would every command that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A card's id fetches its weights where they are not here; no test may open a connection by that.
os.environ.setdefault("FACEZOO_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish():
    """Let collections of garbage pass over the thousands of tests and what they import."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def golden() -> Path:
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with assets and large goldens; tests that ask for it are marked ``shared``."""
    folder = os.environ.get("FACEZOO_SHARED", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FACEZOO_SHARED names no folder with the assets and goldens")
    return Path(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2026)


@pytest.fixture(scope="module")
def one_torch_thread():
    """Let PyTorch compute on one core, where sums have one order."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_here(repository, capsys, caplog):
    """Run a script by its path in the repository, or a verb, in this process.

    Returns its exit code, what it printed, and its errors with what was logged.
    """

    def run(name, *arguments):
        if name.endswith(".py"):
            main = runpy.run_path(str(repository / name))["main"]
        else:
            main, arguments = facezoo_main, (name, *arguments)
        capsys.readouterr()
        caplog.clear()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        said, error = capsys.readouterr()
        return code, said, error + caplog.text

    return run
