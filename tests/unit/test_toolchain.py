"""Handing over to the vendor's vamc and vamp, and the shims, in environments of their own.

A stub distribution that owns both commands stands in for the vendor's; it is installed and removed
by its list of files, as pip does it.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from unittest import mock

import facezoo
import pytest
from facezoo.cli.main import main
from facezoo.vacc import toolchain
from facezoo.vacc.toolchain import TOOLS, describe_toolchain, find_tool, hand_over, is_shim

VENDOR = '''
import json, os, signal, sys

def tell():
    """Say how this was called, and end as the first argument asks."""
    told = {"argv": sys.argv, "stdin": sys.stdin.read(), "cwd": os.getcwd()}
    print(json.dumps(told), flush=True)
    if sys.argv[1:2] == ["fail"]:
        sys.exit("out of tiles")
    if sys.argv[1:2] == ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(os.environ.get("VENDOR_CODE", "0"))
'''


class Environment:
    """A virtual environment with facezoo and all it needs, and its commands run as processes."""

    def __init__(self, folder):
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        self.bin = folder / "bin"
        self.site = next(folder.glob("lib/python*/site-packages"))
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        paths.add(str(Path(facezoo.__file__).parents[1]))
        (self.site / "facezoo.pth").write_text("\n".join(sorted(paths)) + "\n")
        self.write(self.bin / "facezoo", self.console_script("facezoo.cli.main", "main"))
        self.record = []

    def console_script(self, module, function):
        """Write what pip writes for an entry point."""
        return (
            f"#!{self.bin}/python\nimport sys\nfrom {module} import {function}\n"
            f'if __name__ == "__main__":\n    sys.exit({function}())\n'
        )

    @staticmethod
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def install_vendor(self):
        """Unpack the vendor's wheel: a package, its metadata, two console scripts."""
        package = self.site / "vendor_tools" / "__init__.py"
        info = self.site / "vendor_tools-2.8.0.dist-info"
        scripts = "".join(f"{name} = vendor_tools:tell\n" for name in TOOLS)
        self.record = [
            self.write(package, VENDOR),
            self.write(
                info / "METADATA", "Metadata-Version: 2.1\nName: vendor-tools\nVersion: 2.8.0\n"
            ),
            self.write(info / "entry_points.txt", f"[console_scripts]\n{scripts}"),
        ]
        for name in TOOLS:
            text = self.console_script("vendor_tools", "tell")
            self.record.append(self.write(self.bin / name, text))

    def remove_vendor(self):
        for path in self.record:
            path.unlink()
        for folder in {path.parent for path in self.record} - {self.bin}:
            shutil.rmtree(folder)

    def run(self, *words, path=(), **options):
        folders = [*map(str, path), str(self.bin), "/usr/bin", "/bin"]
        environment = {"PATH": os.pathsep.join(folders), **options.pop("env", {})}
        options = {"input": "", **options}
        return subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env=environment,
            **options,
        )

    def facezoo(self, *words, **options):
        return self.run(self.bin / "facezoo", *words, **options)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "env")


def is_ours(ran):
    """Our vamc refuses this YAML, in its own words."""
    return ran.returncode == 2 and "facezoo: " in ran.stderr and "none.yaml" in ran.stderr


# Without the vendor's ----------------------------------------------------------------------------


def test_shims_come_work_and_go(environment):
    assert environment.facezoo("shims", "status").stdout.splitlines() == [
        "vamc: not installed; facezoo vamc is",
        "vamp: not installed; facezoo vamp is",
    ]
    ran = environment.facezoo("shims", "install")
    assert ran.returncode == 0, ran.stderr
    assert f"vamp: shim installed ({environment.bin / 'vamp'})" in ran.stdout
    assert environment.facezoo("shims", "install").stdout == ran.stdout
    assert sorted(path.name for path in environment.bin.glob("*vam*")) == ["vamc", "vamp"]
    assert "runs facezoo's own" in environment.facezoo("shims", "status").stdout
    assert is_ours(environment.run("vamc", "compile", "none.yaml"))
    ran = environment.run("vamp", "-m", "none mod", "-b", "0")
    assert ran.returncode == 2
    assert "facezoo vamp: error: argument -b" in ran.stderr
    assert "shim removed" in environment.facezoo("shims", "remove").stdout
    assert not list(environment.bin.glob("vam*"))


def test_a_folder_with_a_space_is_no_trouble(tmp_path):
    environment = Environment(tmp_path / "my env")
    # Launchers of a folder with a space need more than a plain first line; this is not under test.
    text = f'#!/bin/sh\nexec "{environment.bin}/python" -m facezoo.cli.main "$@"\n'
    environment.write(environment.bin / "facezoo", text)
    assert environment.facezoo("shims", "install").returncode == 0
    assert is_ours(environment.run(environment.bin / "vamc", "compile", "none.yaml"))


def test_what_is_in_the_way_is_named(environment):
    (environment.bin / "vamc").write_text("notes")
    ran = environment.facezoo("shims", "install")
    assert ran.returncode == 2
    assert "vamc' exists and is not a shim of facezoo" in ran.stderr
    assert (environment.bin / "vamc").read_text() == "notes"
    assert "no shim installed" in environment.facezoo("shims", "remove").stdout
    assert (environment.bin / "vamc").exists()


def test_a_shim_needs_the_command_it_calls(environment):
    command = [environment.bin / "python", "-m", "facezoo.cli.main", "shims", "install"]
    (environment.bin / "facezoo").unlink()
    ran = environment.run(*command)
    assert ran.returncode == 2
    assert "does not exist, but a shim needs it" in ran.stderr


# With the vendor's distribution ------------------------------------------------------------------


def check_handed_over(environment, *command, **options):
    """The tool gets arguments and input as they are, and its output and exit code come back."""
    words = ["compile", "a b.yaml", "", "--x=[3,640]", "--help"]
    ran = environment.run(
        *command, *words, input="line\n", env={"VENDOR_CODE": "7"}, cwd=environment.bin, **options
    )
    assert ran.returncode == 7, ran.stderr
    assert ran.stderr == ""
    told = json.loads(ran.stdout)
    assert told["argv"][1:] == words
    assert told["stdin"] == "line\n"
    assert told["cwd"] == str(environment.bin)


def test_a_vendor_installed_before_is_left_alone(environment):
    environment.install_vendor()
    before = {name: (environment.bin / name).read_bytes() for name in TOOLS}
    ran = environment.facezoo("shims", "install")
    assert ran.returncode == 0
    for name in TOOLS:
        assert (
            f"{name}: not changed: the vendor's tool is installed (vendor-tools 2.8.0 in"
            in ran.stdout
        )
    assert {name: (environment.bin / name).read_bytes() for name in TOOLS} == before
    assert environment.facezoo("shims", "remove").returncode == 0
    assert {name: (environment.bin / name).read_bytes() for name in TOOLS} == before
    check_handed_over(environment, environment.bin / "facezoo", "vamc")


def test_a_vendor_installed_after_takes_the_name(environment):
    environment.facezoo("shims", "install")
    environment.install_vendor()
    assert not is_shim(environment.bin / "vamc")
    check_handed_over(environment, "vamc")
    check_handed_over(environment, environment.bin / "facezoo", "vamc")
    assert "vamc: the vendor's (vendor-tools 2.8.0" in environment.facezoo("shims", "status").stdout
    environment.facezoo("shims", "remove")
    assert (environment.bin / "vamc").exists()
    environment.remove_vendor()
    assert not list(environment.bin.glob("vam*"))
    assert is_ours(environment.facezoo("vamc", "compile", "none.yaml"))
    assert "shim installed" in environment.facezoo("shims", "install").stdout
    assert is_ours(environment.run("vamc", "compile", "none.yaml"))


def test_a_shim_hands_over_to_what_is_declared(environment):
    environment.facezoo("shims", "install")
    shims = {name: (environment.bin / name).read_bytes() for name in TOOLS}
    environment.install_vendor()
    for name, text in shims.items():
        (environment.bin / name).write_bytes(text)
    assert "runs the vendor's" in environment.facezoo("shims", "status").stdout
    check_handed_over(environment, "vamc")
    check_handed_over(environment, "vamp")


def test_a_module_in_the_working_folder_is_not_the_vendors(environment, tmp_path):
    environment.install_vendor()
    (tmp_path / "vendor_tools.py").write_text("raise SystemExit('the wrong one')")
    ran = environment.facezoo("vamc", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["argv"] == ["vamc"]


def test_asking_for_an_engine_asks_for_ours(environment):
    environment.install_vendor()
    for words in (["--engine", "ort"], ["--engine=ort"]):
        ran = environment.facezoo("vamp", *words, "-b", "0")
        assert ran.returncode == 2
        assert "facezoo vamp: error: argument -b" in ran.stderr


def test_a_tool_that_fails_fails_as_itself(environment):
    environment.install_vendor()
    ran = environment.facezoo("vamc", "fail")
    assert (ran.returncode, ran.stderr) == (1, "out of tiles\n")
    assert environment.facezoo("vamc", "die").returncode == -signal.SIGKILL


# With a tool on the PATH alone -------------------------------------------------------------------


@pytest.fixture
def opt(environment, tmp_path):
    """A folder of the vendor's with both tools, as its installer may lay them out."""
    folder = tmp_path / "opt" / "vastpipe" / "bin"
    for name in TOOLS:
        text = f"#!{sys.executable}\n{VENDOR}\nsys.exit(tell())\n"
        environment.write(folder / name, text)
    return folder


def test_a_tool_on_the_path_is_handed_over_to(environment, opt):
    check_handed_over(environment, environment.bin / "facezoo", "vamp", path=[opt])
    ran = environment.facezoo("shims", "install", path=[opt])
    assert f"vamp: not changed: the vendor's tool is installed ({opt / 'vamp'})" in ran.stdout
    assert not (environment.bin / "vamp").exists()


def test_a_shim_before_the_tool_on_the_path_hands_over(environment, opt):
    environment.facezoo("shims", "install")
    check_handed_over(
        environment, environment.bin / "vamp", path=["/usr/bin", environment.bin, opt]
    )


def test_a_tool_of_an_environment_that_is_not_on_the_path_is_seen(environment):
    environment.write(environment.bin / "vamp", f"#!{sys.executable}\n{VENDOR}\nsys.exit(tell())\n")
    ran = environment.facezoo("shims", "install", env={"PATH": "/usr/bin:/bin"})
    assert ran.returncode == 0
    assert (
        f"vamp: not changed: the vendor's tool is installed ({environment.bin / 'vamp'})"
        in ran.stdout
    )
    assert "vamc: shim installed" in ran.stdout


def test_a_shim_of_another_environment_is_no_tool(environment, tmp_path):
    other = Environment(tmp_path / "other")
    other.facezoo("shims", "install")
    assert is_ours(environment.facezoo("vamc", "compile", "none.yaml", path=[other.bin]))
    ran = environment.facezoo("shims", "install", path=[other.bin])
    assert "vamc: shim installed" in ran.stdout


def test_a_tool_that_leads_back_ends_here(environment, opt):
    text = f'#!/bin/sh\nexec {environment.bin}/facezoo vamc "$@"\n'
    environment.write(opt / "vamc", text)
    ran = environment.facezoo("vamc", "compile", "none.yaml", path=[opt])
    assert is_ours(ran)
    assert ran.stderr.count("calls facezoo vamc again") == 1


def test_a_tool_that_calls_itself_by_name_gets_itself(environment, opt):
    environment.facezoo("shims", "install")
    text = (
        '#!/bin/sh\nif [ "$1" = worker ]; then echo "works on $2"; exit 5; fi\nvamc worker "$@"\n'
    )
    environment.write(opt / "vamc", text)
    ran = environment.run(environment.bin / "vamc", "x.yaml", path=[environment.bin, opt])
    assert (ran.returncode, ran.stdout) == (5, "works on x.yaml\n")


def test_a_tool_that_cannot_be_started_is_said(environment, opt):
    environment.write(opt / "vamc", "#!/no/such/interpreter\n")
    ran = environment.facezoo("vamc", "compile", "none.yaml", path=[opt])
    assert ran.returncode == 126
    assert f"{opt / 'vamc'}, cannot be started: No such file" in ran.stderr
    assert "Traceback" not in ran.stderr


# In this process ---------------------------------------------------------------------------------


def test_a_call_from_python_does_not_replace_the_process(opt, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(opt))
    assert find_tool("vamc").command == (str(opt / "vamc"),)
    assert main(["vamc", "compile", "none.yaml"]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_nothing_to_hand_over_to(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f":{tmp_path}")
    monkeypatch.setattr(toolchain, "scripts_folder", lambda: tmp_path)
    # An empty entry of the PATH means the working folder, where no vendor installs.
    here = Environment.write(tmp_path / "here" / "vamc", "#!/bin/sh\n").parent
    monkeypatch.chdir(here)
    (tmp_path / "vamc").mkdir()
    (tmp_path / "vamp").write_text("not executable")
    assert [find_tool(name) for name in TOOLS] == [None, None]
    assert hand_over("vamc", []) is None


def test_the_parts_that_are_here_are_described(opt, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(opt))
    driver = tmp_path / "vastai0_version"
    driver.write_text("Firmware: 1\nDriver Version: 00.24.11\n")
    monkeypatch.setattr(toolchain, "DRIVER_FILE", driver)
    assert describe_toolchain() == {
        "vamc": {"where": str(opt / "vamc"), "version": ""},
        "vamp": {"where": str(opt / "vamp"), "version": ""},
        "vaststreamx": None,
        "driver": "Driver Version: 00.24.11",
    }
    monkeypatch.setattr(toolchain, "DRIVER_FILE", tmp_path / "none")
    assert describe_toolchain()["driver"] is None


@pytest.mark.parametrize("value", ["pkg.mod:obj.main", "pkg.mod : obj.main [extra]"])
def test_an_entry_point_is_started_as_its_console_script_would(value, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "mod.py").write_text(
        "import sys\nclass obj:\n    main = staticmethod(lambda: print(sys.argv) or 3)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", toolchain._launcher("vamc", value), "x"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (3, "['vamc', 'x']\n")


def test_a_full_disk_leaves_no_half_of_a_shim(tmp_path, monkeypatch, capsys):
    (tmp_path / "facezoo").touch()
    monkeypatch.setattr("facezoo.cli.shims.scripts_folder", lambda: tmp_path)
    monkeypatch.setattr("facezoo.cli.shims.find_tool", lambda name: None)
    full = OSError(errno.ENOSPC, "No space left on device", "vamc")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", mock.Mock(side_effect=full))
        assert main(["shims", "install"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["facezoo"]
    assert main(["shims", "install"]) == 0
