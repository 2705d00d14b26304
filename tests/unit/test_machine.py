"""Cores: affinity, cgroup quotas on made-up trees, OMP_NUM_THREADS and --threads."""

import io
import logging
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import cv2
import pytest
from facezoo import machine
from facezoo.cli import options
from facezoo.cli.main import main
from facezoo.cli.options import add_threads_option, make_parser, run_command
from facezoo.machine import SharedSetting, granted_cores, limited_cores, usable_cores

V2, V1 = "cgroup2 cgroup2 rw,nsdelegate", "cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture(autouse=True)
def cores(monkeypatch, tmp_path):
    """64 cores by affinity, no cgroups, no wish of the user."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "PROC_SELF", tmp_path / "proc")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usable_cores.cache_clear()
    yield
    usable_cores.cache_clear()


def make_tree(folder, groups, mounts, files):
    """Write what the kernel shows: lines of cgroup and mountinfo, and the files of the groups."""
    (folder / "proc").mkdir()
    (folder / "proc/cgroup").write_text("".join(f"{line}\n" for line in groups))
    lines = [
        f"{30 + i} 23 0:{i} {root} {folder / point} rw,relatime shared:9 - {kind}\n"
        for i, (root, point, kind) in enumerate(mounts)
    ]
    (folder / "proc/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "".join(lines))
    for name, text in files.items():
        file = Path(folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        # Version 2: in a container the own group is the root of the mount.
        (["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "200000 100000\n"}, 2),
        (["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "max 100000\n"}, 64),
        (["0::/"], [("/", "fs", V2)], {}, 64),
        # Fractions are rounded up; at least one; never more than the affinity.
        (["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "150000 100000\n"}, 2),
        (["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "25000 100000\n"}, 1),
        (["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "9900000 100000\n"}, 64),
        # The smallest quota of nested groups counts, the own one or one above it.
        (
            ["0::/a/b"],
            [("/", "fs", V2)],
            {"fs/a/b/cpu.max": "800000 100000", "fs/a/cpu.max": "300000 100000"},
            3,
        ),
        (
            ["0::/a/b"],
            [("/", "fs", V2)],
            {"fs/a/b/cpu.max": "400000 100000", "fs/a/cpu.max": "max 100000"},
            4,
        ),
        # Others' groups do not count.
        (["0::/a"], [("/", "fs", V2)], {"fs/b/cpu.max": "100000 100000"}, 64),
        # The host's path, mounted from the group on.
        (["0::/docker/x"], [("/docker/x", "fs", V2)], {"fs/cpu.max": "500000 100000"}, 5),
        (["0::/docker/x/y"], [("/docker/x", "fs", V2)], {"fs/y/cpu.max": "500000 100000"}, 5),
        (["0::/../other"], [("/", "fs", V2)], {"fs/cpu.max": "500000 100000"}, 5),
        # Version 1.
        (
            ["4:memory:/m", "3:cpu,cpuacct:/g"],
            [("/", "mem", "cgroup cgroup rw,memory"), ("/", "cpu", V1)],
            {"cpu/g/cpu.cfs_quota_us": "250000", "cpu/g/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            ["3:cpu,cpuacct:/g"],
            [("/", "cpu", V1)],
            {"cpu/g/cpu.cfs_quota_us": "-1", "cpu/g/cpu.cfs_period_us": "100000"},
            64,
        ),
        (
            ["3:cpu:/g/h", "0::/"],
            [("/", "cpu", V1), ("/", "unified", V2)],
            {
                "cpu/g/h/cpu.cfs_quota_us": "-1",
                "cpu/g/h/cpu.cfs_period_us": "100000",
                "cpu/g/cpu.cfs_quota_us": "600000",
                "cpu/g/cpu.cfs_period_us": "100000",
            },
            6,
        ),
        # A cpuset is part of the affinity, and no quota.
        (
            ["3:cpuset:/"],
            [("/", "set", "cgroup cgroup rw,cpuset")],
            {"set/cpu.cfs_quota_us": "100000", "set/cpu.cfs_period_us": "100000"},
            64,
        ),
    ],
)
def test_the_quota_of_a_tree(tmp_path, groups, mounts, files, expected):
    make_tree(tmp_path, groups, mounts, files)
    assert granted_cores() == usable_cores() == expected


def test_a_mount_point_may_hold_a_space(tmp_path):
    make_tree(tmp_path, ["0::/"], [("/", r"a\040b", V2)], {"a b/cpu.max": "300000 100000"})
    assert usable_cores() == 3


def test_without_affinity_or_cgroups_the_machines_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert granted_cores() == 1


def test_cores_are_read_once(monkeypatch):
    assert usable_cores() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert usable_cores() == 64


@pytest.mark.parametrize(
    ("given", "expected"),
    [("3", 3), ("4,2", 4), ("999", 64), ("", 64), ("0", 64), ("-1", 64), ("many", 64)],
)
def test_openmps_variable_limits_the_cores(monkeypatch, caplog, given, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert usable_cores() == expected
    assert (f"OMP_NUM_THREADS={given} is not" in caplog.text) == (given in ("0", "-1", "many"))


def test_a_limit_is_for_a_while_and_for_children(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with limited_cores(7):
        assert (usable_cores(), os.environ["OMP_NUM_THREADS"]) == (7, "7")
    assert (usable_cores(), os.environ["OMP_NUM_THREADS"]) == (5, "5")
    monkeypatch.delenv("OMP_NUM_THREADS")
    with limited_cores(1):
        pass
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("65", 64), (None, 64)])
def test_threads_of_a_command(caplog, given, expected):
    parser = make_parser("A command.")
    add_threads_option(parser)
    seen = []

    def run(args: Namespace) -> int:
        seen.append((usable_cores(), cv2.getNumThreads()))
        return 0

    before = cv2.getNumThreads()
    assert run_command(run, parser, ["--threads", given] if given else []) == 0
    assert seen == [(expected, expected)]
    assert cv2.getNumThreads() == before
    assert ("--threads 65: only 64 cores may be used" in caplog.text) == (given == "65")
    with pytest.raises(SystemExit):
        parser.parse_args(["--threads", "0"])


COMMAND = """
import os, sys
from pathlib import Path
from facezoo import machine
machine.PROC_SELF = Path(sys.argv[1])
os.cpu_count = lambda: 64
os.sched_getaffinity = lambda pid: set(range(64))
import cv2
cv2.setNumThreads(64)
import facezoo.cli
assert "numpy" in sys.modules  # by cv2 here; a command imports facezoo.cli first
from facezoo.cli.options import RuntimeOptions
import facezoo.image
print(os.environ["OMP_NUM_THREADS"], cv2.getNumThreads())
"""


def test_libraries_are_told_of_the_quota(tmp_path):
    make_tree(tmp_path, ["0::/"], [("/", "fs", V2)], {"fs/cpu.max": "200000 100000"})
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "proc")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2", "2"]


@pytest.mark.parametrize("first_out", [0, 1])
def test_a_setting_of_the_program_is_restored_in_whatever_order_threads_end(first_out):
    value = ["before"]
    setting = SharedSetting(lambda: value[0], lambda new: value.__setitem__(0, new))
    both = [setting.changed("one"), setting.changed("two")]
    for each in both:
        each.__enter__()
    assert value == ["two"]
    both.pop(first_out).__exit__(None, None, None)
    assert value == [["two", "one"][first_out]]
    both[0].__exit__(None, None, None)
    assert value == ["before"]


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(options, "SECONDS_PER_LINE", 0.0)
    caplog.set_level(logging.INFO)
    parser = make_parser("A command.")

    def run(args: Namespace) -> int:
        assert list(options.progress(iter("abc"), 3)) == ["a", "b", "c"]
        assert list(options.progress(iter("ab"), None)) == ["a", "b"]
        return 0

    assert run_command(run, parser, []) == 0
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in lines] == [
        "1 of 3 done",
        "2 of 3 done",
        "1 done",
        "2 done",
    ]
    assert all("minutes left" in line for line in lines[:2])
    caplog.clear()
    assert run_command(run, parser, ["--quiet"]) == 0
    assert caplog.records == []


def test_one_command_is_quiet_after_another_was_verbose(caplog):
    log, parser = logging.getLogger("facezoo.test"), make_parser("A command.")

    def run(args: Namespace) -> int:
        log.warning("careful")
        log.debug("a detail")
        return 0

    found = []
    for words in (["--verbose"], ["--quiet"], []):
        caplog.clear()
        assert run_command(run, parser, words) == 0
        found.append([record.getMessage() for record in caplog.records])
    assert found == [["careful", "a detail"], [], ["careful"]]


def test_what_other_packages_do_in_detail_is_not_said():
    code = """
import logging
from facezoo.cli.options import make_parser, run_command
def run(args):
    logging.info("a copy was made")
    logging.warning("something is wrong")
    logging.getLogger("facezoo.test").info("half is done")
    return 0
parser = make_parser("A command.")
parser.prog = "command"
raise SystemExit(run_command(run, parser, []))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "command: something is wrong\ncommand: half is done\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(options.progress(iter("abc"), 3, "accuracy gate")) == ["a", "b", "c"]
    with options.showing() as show:
        show(5, 9)  # What an earlier start has done is no speed.
        show(9, 9)
    said = sys.stderr.getvalue()
    assert "accuracy gate: 100%" in said and "3/3" in said
    assert "9/9" in said


def opens_a_model(script: Path) -> bool:
    text = script.read_text("utf-8")
    return "facezoo.load(" in text or "open_backend(" in text or "map_in_order(" in text


REPOSITORY = Path(__file__).parent.parent.parent
SCRIPTS = [path for path in REPOSITORY.glob("face_*/*/*/*.py") if opens_a_model(path)]
# What opens a model itself, or by a function that it calls.
VERBS = """
    bench calibrate_similarity compare compile demo doctor eject evaluate_scrfd export
    image2npz match predict sensitivity vacc_selftest vamp
""".split()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_script_that_opens_a_model_can_be_limited(script):
    assert "--threads N" in runpy.run_path(str(script))["build_parser"]().format_help()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_opens_a_model_can_be_limited(verb, capsys):
    with pytest.raises(SystemExit):
        main([*verb.split("_"), "--help"])
    assert "--threads N" in capsys.readouterr().out
