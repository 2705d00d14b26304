"""The selftest against a stand-in device: it finds what was planted, and survives faults."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from facezoo.artifact import BuildInfo, write_artifact
from facezoo.cli.main import main
from facezoo.cli.vacc import task_drift
from facezoo.contract import read_contract
from facezoo.doctor import device_selftest as selftest
from facezoo.doctor.device_probes import DEVICE_PROBES, Setup
from facezoo.doctor.device_selftest import compare_recipe, isolated, run_selftest
from facezoo.doctor.tool_probes import VAMP_PROBES, VampSetup, run_tool
from facezoo.errors import BackendRunError, ConfigError, GraphError, InputError
from facezoo.testing import tiny_scrfd
from facezoo.vacc.toolchain import Tool

FAKE = Path(__file__).with_name("fake_vaststreamx.py")

# What the vendor's compiler may look like: the graph goes into mod.so, where the stand-in finds it.
VAMC = """
import pathlib, sys, yaml
path = pathlib.Path(sys.argv[2])
if not path.exists():
    sys.exit("no such YAML")
config = yaml.safe_load(path.read_text())
folder = pathlib.Path(config["workspace"]["path"], config["name"])
folder.mkdir(parents=True)
for suffix in (".json", ".params"):
    (folder / f"mod{suffix}").write_text("")
(folder / "mod.so").write_bytes(pathlib.Path(config["frontend"]["checkpoint"]).read_bytes())
print("compiled")
"""

# What the vendor's profiler may look like: one number a picture, its brightness.
VAMP = """
import argparse, pathlib, sys
import numpy as np
parser = argparse.ArgumentParser()
for flags in ("-m", "--vdsp_params", "-d", "-i", "-p", "-b", "-s", "--iterations", "-t"):
    parser.add_argument(flags)
parser.add_argument("--datalist")
parser.add_argument("--path_output")
args = parser.parse_args()
if args.datalist:
    output = pathlib.Path(args.path_output)
    output.mkdir(exist_ok=True)
    for index, line in enumerate(open(args.datalist)):
        picture = np.load(line.strip())["input_0"]
        mean = np.array([[picture.mean()]], np.float16)
        np.savez(output / f"output_{index:06d}.npz", output_0=mean)
print("throughput (qps): 863.92")
"""


def direct(function, *arguments, seconds):
    return function(*arguments)


@pytest.fixture
def runtime(monkeypatch):
    modules = []
    monkeypatch.setattr("facezoo.doctor.device_probes.BACK_PRESSURE_SECONDS", 1.0)

    def install(**settings):
        monkeypatch.setenv("FAKE_VSX", json.dumps(settings))
        spec = importlib.util.spec_from_file_location("vaststreamx", FAKE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "vaststreamx", module)
        modules.append(module)
        return module

    yield install
    for module in modules:
        module.release()


def make_prefix(folder, change=lambda graph: None, **preprocess):
    """Our two files and the vendor's three; ``change`` makes the vendor's graph another."""
    source = tiny_scrfd(folder / "source.onnx")
    contract = read_contract(source)
    contract = replace(contract, preprocess=replace(contract.preprocess, **preprocess))
    graph = onnx.load(str(source))
    onnx.helper.set_model_props(graph, contract.to_metadata())
    source.write_bytes(graph.SerializeToString())
    build = BuildInfo(
        name=folder.name,
        dtype="fp16",
        arithmetic="float32",
        source="source.onnx",
        source_sha256="",
        card=contract.card_id,
        inputs={"input.1": ("batch", 3, 64, 64)},
        outputs=contract.output_names,
    )
    write_artifact(folder / "mod", source.read_bytes(), build)
    change(graph)
    (folder / "mod.so").write_bytes(graph.SerializeToString())
    for suffix in (".json", ".params"):
        (folder / f"mod{suffix}").write_text("")
    return folder / "mod"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return make_prefix(tmp_path_factory.mktemp("deploy") / "tiny_fp16")


@pytest.fixture
def setup(prefix):
    return Setup(prefix, (64, 64), 0, 10.0)


@pytest.fixture
def tool(tmp_path):
    def write(name, source):
        path = tmp_path / "opt" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
        return Tool(name, (str(path),), str(path))

    return write


# The questions find what is planted --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "planted", "answer"),
    [
        ("pad_colour", {}, "colour is [0.0, 0.0, 0.0]; Padding is obeyed, and applied before"),
        ("pad_colour", {"pad": [114, 1, 9]}, "without Padding the colour is [114.0, 1.0, 9.0]"),
        ("letterbox_rounding", {}, "size by floor; offset by floor of half the free pixels"),
        (
            "letterbox_rounding",
            {"size": "round", "offset": "ceil"},
            "size by round half to even; offset by ceil of half the free pixels",
        ),
        (
            "letterbox_rounding",
            {"size": "ceil", "offset": "round"},
            "size by ceil; offset by half the free pixels, half to even",
        ),
        ("whole_pixels", {}, "pixels are whole numbers after resizing"),
        ("whole_pixels", {"uint8": False}, "pixels keep fractions after resizing"),
        ("resize_types", {}, "BILINEAR_CV is within 0 of OpenCV's"),
        ("normalisation", {}, "all formulas are as documented"),
        (
            "normalisation",
            {"mean_reversed": True},
            "not as documented: MINUSMEAN_DIVSTD NO_CHANGE, MINUSMEAN_DIVSTD RGB2BGR, DIV255_M",
        ),
        ("output_size", {}, "another size than the model's is refused: "),
        ("picture_sizes", {}, "all run"),
        ("picture_sizes", {"create_refuses": 97}, "fail: 97x31"),
        ("tail_batch", {}, "a last batch of 1 in batches of 2 runs; outputs are within"),
        ("tail_batch", {"loses_a_result": True}, "5 images in batches of 2 fail: "),
        ("cross_call_batching", {}, "images/s against batch 1: "),
        ("back_pressure", {"queue": 5}, "run_async blocks after "),
        ("back_pressure", {"queue": 1000}, "run_async accepted 256 calls"),
        ("raises_absent_die", {}, "no exception; gives 1"),
        ("raises_absent_model", {}, "RuntimeError: "),
        ("raises_wrong_picture", {}, "RuntimeError: image (3, 16, 24) uint8"),
        ("raises_too_many", {}, "RuntimeError: 2 images for a batch of 1"),
        ("raises_after_the_end", {}, "RuntimeError: the stream takes no input"),
        ("raises_at_the_end", {}, "ValueError: stream is closed"),
        ("raises_unknown_output", {}, "KeyError: "),
    ],
)
def test_a_question_finds_what_is_planted(runtime, setup, name, planted, answer):
    runtime(**planted)
    found = DEVICE_PROBES[name].ask(setup)
    assert answer in found.text
    assert json.loads(json.dumps(found.measured)) == found.measured


def test_every_question_is_planted_above(request):
    marks = test_a_question_finds_what_is_planted.pytestmark
    asked = {values[0] for values in marks[0].args[1]}
    assert asked == set(DEVICE_PROBES)


def test_wide_networks_are_letterboxed_by_the_same_rules(runtime, tmp_path):
    runtime(size="round")
    tiny = tiny_scrfd(tmp_path / "wide.onnx", input_hw=(64, 96))
    for suffix in (".so", ".json", ".params"):
        (tmp_path / f"mod{suffix}").write_bytes(tiny.read_bytes())
    found = DEVICE_PROBES["letterbox_rounding"].ask(Setup(tmp_path / "mod", (64, 96), 0, 10.0))
    assert found.text.startswith("size by round half to even; offset")


# Recipes -----------------------------------------------------------------------------------------


def test_a_recipe_that_agrees_is_seen_to(runtime, prefix):
    runtime()
    found = compare_recipe(prefix, 0, 10.0)
    assert found.measured["tensor"]["max_error_in_pixel_steps"] < 0.2
    assert found.measured["tensor"]["share_beyond_one_step"] == 0.0
    gaps = found.measured["outputs"]
    assert list(gaps) == list(found.contract.output_names)
    assert all(gap["lowest_cosine"] > 0.9999 for gap in gaps.values())
    drift = task_drift(found.contract, found.pairs)
    assert drift["faces"] > 5
    assert drift["missed"] == drift["extra"] == 0
    assert drift["worst_score"] < 0.01


def test_tensors_are_compared_in_the_cards_float16(runtime, tmp_path):
    runtime()
    prefix = make_prefix(
        tmp_path / "imagenet_fp16",
        norm="DIV255_MINUSMEAN_DIVSTD",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    tensor = compare_recipe(prefix, 0, 10.0).measured["tensor"]
    # Only what float16 rounds the other way, since the two formulas differ, is another number.
    assert tensor["share_identical"] > 0.95
    assert tensor["max_error_in_pixel_steps"] < 0.3


def test_another_pre_processing_is_told_from_another_network(runtime, prefix, tmp_path):
    # The stand-in rounds the other way, so the tensors differ, and the network does not.
    runtime(offset="ceil", size="ceil")
    found = compare_recipe(prefix, 0, 10.0).measured
    assert found["tensor"]["share_beyond_one_step"] > 0.01
    assert min(gap["lowest_cosine"] for gap in found["outputs"].values()) < 0.999
    inside = found["outputs_on_the_card's_tensor"].values()
    assert min(gap["lowest_cosine"] for gap in inside) > 0.9999

    def scale(graph):
        for weight in graph.graph.initializer:
            if weight.name == "score_8.bias":
                other = onnx.numpy_helper.to_array(weight) + 40.0
                weight.CopyFrom(onnx.numpy_helper.from_array(other, weight.name))

    runtime()
    found = compare_recipe(make_prefix(tmp_path / "other_fp16", scale), 0, 10.0)
    assert found.measured["tensor"]["share_beyond_one_step"] == 0.0
    gaps = found.measured["outputs_on_the_card's_tensor"]
    assert gaps["score_8"]["max_error"] == pytest.approx(40.0, abs=0.1)
    assert gaps["score_16"]["max_error"] < 0.1
    assert task_drift(found.contract, found.pairs)["extra"] > 0


def test_a_recipe_without_our_files_is_refused(runtime, prefix, tmp_path):
    runtime()
    for suffix in (".so", ".json", ".params"):
        (tmp_path / f"mod{suffix}").write_bytes(prefix.with_suffix(suffix).read_bytes())
    with pytest.raises(InputError, match="needs both the vendor's files and ours"):
        compare_recipe(tmp_path / "mod", 0, 10.0)
    for suffix in (".onnx", ".build.json"):
        (tmp_path / f"mod{suffix}").write_bytes(Path(f"{prefix}{suffix}").read_bytes())
    (tmp_path / "mod.so").unlink()
    with pytest.raises(InputError, match="needs both the vendor's files and ours"):
        compare_recipe(tmp_path / "mod", 0, 10.0)


def test_models_without_a_comparison_have_no_drift(prefix):
    contract = read_contract(prefix.with_suffix(".onnx"))
    assert task_drift(replace(contract, model="magface"), []) == {}


# Processes ---------------------------------------------------------------------------------------


def raise_config_error():
    raise ConfigError("no such key")


def raise_unknown():
    class Own(Exception):
        pass

    raise Own("from the runtime")


def test_a_step_of_its_own_process_may_do_anything():
    assert isolated(os.getpid, seconds=60) != os.getpid()
    with pytest.raises(GraphError, match=r"none\.onnx' cannot be read"):
        isolated(read_contract, Path("none.onnx"), seconds=60)
    with pytest.raises(BackendRunError, match="signal 6, SIGABRT"):
        isolated(os.abort, seconds=60)
    started = time.monotonic()
    with pytest.raises(BackendRunError, match="did not end within 2 s"):
        isolated(time.sleep, 60, seconds=2)
    assert time.monotonic() - started < 10


def test_errors_come_out_of_the_process_as_ours():
    class Pipe:
        def send(self, message):
            self.message = message

    for function, kind, text in (
        (raise_config_error, ConfigError, "no such key"),
        (raise_unknown, BackendRunError, "Own: from the runtime"),
        (partial(int, "7"), int, "7"),
    ):
        pipe = Pipe()
        selftest._report_to(pipe, function, ())
        assert type(pipe.message) is kind
        assert str(pipe.message) == text


# The vendor's tools ------------------------------------------------------------------------------


def test_vamp_is_asked(tool, prefix, tmp_path):
    preprocess = read_contract(prefix.with_suffix(".onnx")).preprocess
    setup = VampSetup(tool("vamp", VAMP), prefix, preprocess, 0, 60.0, tmp_path)
    found = {name: question.ask(setup) for name, question in VAMP_PROBES.items()}
    assert json.loads(json.dumps({n: one.measured for n, one in found.items()}))
    assert found["vamp_report"].text == "exit code 0, 1 lines"
    assert found["vamp_report"].measured["stdout"] == "throughput (qps): 863.92\n"
    assert found["vamp_stray_p"].text == "'-i 1 p 1' gives exit code 2"
    assert "'-t 3' takes" in found["vamp_t"].text
    assert (
        found["vamp_outputs"].text
        == "5 lines in batches of 2 give exit code 0 and 5 files of 1 layout"
    )
    content = found["vamp_outputs"].measured["contents"]["output_000004.npz"]
    assert content == {"output_0": ["float16", 1, 1]}
    assert found["vamp_order"].text == "output_000000 is line 0's"
    assert (
        found["vamp_broken_npz"].text == "a broken npz on line 2 of 5 gives exit code 1 and 2 files"
    )
    assert "the old file stays" in found["vamp_full_folder"].text
    assert found["vamp_absent_list"].text == "exit code 1"


def test_a_vamp_that_numbers_otherwise_is_seen(tool, prefix, tmp_path):
    wrong = VAMP.replace("{index:06d}", "{4 - index:06d}")
    preprocess = read_contract(prefix.with_suffix(".onnx")).preprocess
    setup = VampSetup(tool("vamp", wrong), prefix, preprocess, 0, 60.0, tmp_path)
    assert "is not line 0's" in VAMP_PROBES["vamp_order"].ask(setup).text


def test_a_tool_that_hangs_ends_with_its_workers(tool, tmp_path):
    mark = tmp_path / "alive"
    hanging = (
        'import subprocess, time\nsubprocess.Popen(["sleep", "60"])\n'
        f'open({str(mark)!r}, "w")\ntime.sleep(60)\n'
    )
    started = time.monotonic()
    with pytest.raises(BackendRunError, match="vamp did not end within 3 s"):
        run_tool(tool("vamp", hanging), ["x"], 3.0, tmp_path)
    assert time.monotonic() - started < 10
    assert mark.exists()
    absent = Tool("vamp", (str(tmp_path / "none"),), "none")
    with pytest.raises(BackendRunError, match="vamp cannot be started: No such file"):
        run_tool(absent, [], 3.0, tmp_path)


# All of it ---------------------------------------------------------------------------------------


def test_a_machine_without_a_card_says_so_in_a_line(tmp_path, capsys):
    assert main(["vacc", "selftest", "--output", str(tmp_path / "report.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert (
        "the self-test needs a device: the vendor's package vaststreamx cannot be imported" in err
    )
    assert not (tmp_path / "report.json").exists()


def test_everything_is_found_out_and_written(runtime, tool, monkeypatch, tmp_path, capsys):
    runtime(pad=[114, 114, 114])
    path = os.pathsep.join([str(Path(tool("vamc", VAMC).command[0]).parent), os.environ["PATH"]])
    tool("vamp", VAMP)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(selftest, "run_selftest", partial(run_selftest, isolate=direct))
    out = tmp_path / "report.json"
    code = main(["vacc", "selftest", "--device", "0", "--output", str(out)])
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert code == 0, printed
    assert report["schema"] == "facezoo.selftest/1"
    assert report["toolchain"]["vamp"]["where"].endswith("/opt/vamp")
    findings = {one["name"]: one for one in report["findings"]}
    assert set(findings) == {
        "selftest_tiny_fp16", "vamc_absent_yaml", *DEVICE_PROBES, *VAMP_PROBES
    }  # fmt: skip
    assert not any(one["failed"] for one in findings.values())
    assert findings["selftest_tiny_fp16"]["measured"]["drift"]["faces"] > 5
    assert "[114.0, 114.0, 114.0]" in findings["pad_colour"]["answer"]
    assert findings["vamc_absent_yaml"]["answer"] == "exit code 1"
    assert report["unanswerable"]
    lines = printed.splitlines()
    assert len(lines) == len(findings) + 1
    assert f"please send {out} to the project" in lines[-1]
    assert str(Path.home()) not in json.dumps(report["toolchain"]).replace(str(tmp_path), "")


def test_a_step_that_fails_is_written_down_and_the_rest_goes_on(runtime, prefix, tmp_path, capsys):
    runtime()

    def faulty(function, *arguments, seconds):
        if function is DEVICE_PROBES["whole_pixels"].ask:
            raise BackendRunError("the process died with signal 6, SIGABRT")
        return direct(function, *arguments, seconds=seconds)

    found = list(run_selftest([prefix], device_id=0, timeout=5.0, drift=task_drift, isolate=faulty))
    failed = [one for one in found if one.failed]
    assert [one.name for one in failed] == ["whole_pixels"]
    assert failed[0].answer == "the process died with signal 6, SIGABRT"
    assert len(found) == 1 + len(DEVICE_PROBES)


def test_without_a_prefix_and_a_vamc_there_is_nothing_to_test(runtime, capsys, monkeypatch):
    runtime()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert main(["vacc", "selftest"]) == 2
    assert "there is no network to test: give prefixes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import sys; sys.exit('out of tiles')", 1),
        (f"{VAMC}\nsys.exit('out of tiles')", 1),
        ("print('out of tiles')", 0),
    ],
    ids=["fails", "fails late", "leaves nothing"],
)
def test_a_vamc_that_fails_is_quoted(runtime, tool, monkeypatch, capsys, source, code):
    runtime()
    failing = tool("vamc", source)
    monkeypatch.setenv("PATH", str(Path(failing.command[0]).parent))
    assert main(["vacc", "selftest"]) == 2
    said = capsys.readouterr().err
    assert f"gave exit code {code} for a tiny network" in said
    assert "out of tiles" in said


@pytest.mark.long
def test_as_a_command_with_processes_of_their_own(prefix, tmp_path):
    module = tmp_path / "runtime" / "vaststreamx.py"
    module.parent.mkdir()
    module.symlink_to(FAKE)
    environment = {**os.environ, "PYTHONPATH": str(module.parent)}
    environment["FAKE_VSX"] = json.dumps({"aborts": 5, "queue": 20})
    out = tmp_path / "report.json"
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "facezoo.cli.main",
            "vacc",
            "selftest",
            str(prefix),
            "--output",
            str(out),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1, ran.stderr
    findings = {one["name"]: one for one in json.loads(out.read_text())["findings"]}
    assert findings["letterbox_rounding"]["answer"] == "the process died with signal 6, SIGABRT"
    assert findings["raises_at_the_end"]["answer"].startswith("ValueError")
    assert "pad_colour: without Padding" in ran.stdout


def test_generated_pictures_are_always_the_same():
    first, second = selftest.generated_pictures(), selftest.generated_pictures()
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one, two)
    assert {one.dtype for one in first} == {np.dtype(np.uint8)}
