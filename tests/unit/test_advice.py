"""bench --advise: which builds are compared, which are left out and why, and what is named."""

import json

import pytest
from facezoo.artifact import BuildInfo, write_artifact
from facezoo.cli.main import main
from facezoo.compiler import advice
from facezoo.compiler.advice import Speed, find_candidates
from facezoo.errors import InputError
from facezoo.testing import tiny_scrfd

GATE = {
    "pictures": 9,
    "held_out": True,
    "measured": {"missed_share": 0.01, "mean_iou": 0.98},
    "limits": {"missed_share": 0.06, "mean_iou": 0.9},
}
LOST = {**GATE, "measured": {"missed_share": 0.01, "mean_iou": 0.89}}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "find_spec", lambda package: package == "onnxruntime" or None)
    graph = tiny_scrfd(tmp_path / "tiny.onnx").read_bytes()

    def write(name, dtype, source="a" * 64, **fields):
        build = BuildInfo(
            name=name,
            dtype=dtype,
            arithmetic="",
            source="tiny.onnx",
            source_sha256=source,
            card="scrfd_500m_bnkps",
            inputs={"input": ("batch", 3, 64, 64)},
            outputs=("score_8",),
            **fields,
        )
        return write_artifact(tmp_path / "deploy_weights" / name / "mod", graph, build).prefix

    write("fp32", "fp32")
    write("fp16_ungated", "fp16")
    write("int8", "int8", gate=GATE, int8_weights="portable")
    write("int8_full", "int8", gate={**GATE, "exact": True}, int8_weights="full")
    write("int8_lost", "int8", gate=LOST, int8_weights="portable")
    write("int8_odd", "int8", gate={"measured": {}}, int8_weights="portable")
    write("of_another_file", "fp32", source="b" * 64)
    return tmp_path / "deploy_weights"


@pytest.mark.parametrize("saturates", [True, False])
def test_a_build_needs_a_loss_recorded_on_this_arithmetic(workspace, monkeypatch, saturates):
    monkeypatch.setattr(advice, "saturates", lambda kind: saturates)
    found, left_out = find_candidates(workspace / "int8" / "mod")
    names = [(one.artifact.name, one.engine, one.gate) for one in found]
    gate = "within limits on 9 images"
    full = [] if saturates else [("int8_full", "ort", gate)]
    assert names == [("fp32", "ort", "the reference"), ("int8", "ort", gate), *full]
    assert "no loss recorded" in left_out["fp16_ungated"]
    assert "mean_iou" in left_out["int8_lost"] and "missed_share" not in left_out["int8_lost"]
    assert "cannot be read" in left_out["int8_odd"]
    assert ("--arithmetic portable" in left_out.get("int8_full on ort", "")) == saturates
    assert "of_another_file" not in left_out
    assert left_out["openvino"] == "not installed"


def test_only_builds_and_engines_of_the_host_are_compared(workspace):
    with pytest.raises(InputError, match="give the prefix of one"):
        find_candidates(workspace.parent / "tiny.onnx")
    with pytest.raises(InputError, match="'vsx' is not compared; expected one of ort"):
        find_candidates(workspace / "fp32" / "mod", "vsx")
    assert find_candidates(workspace / "fp32" / "mod", "openvino")[0] == []


def advise(workspace, *words):
    return main(["bench", "-m", str(workspace / "fp32" / "mod"), "--advise", *words])


def test_the_fastest_is_named_for_both_kinds_of_work(workspace, monkeypatch, capsys):
    monkeypatch.setattr(advice, "saturates", lambda kind: True)
    speeds = [Speed(2.0, 300.0), Speed(1.5, 250.0)]
    monkeypatch.setattr(advice, "measure_candidates", lambda job, candidates, seconds: speeds)
    path = workspace / "advice.json"
    assert advise(workspace, "--json", str(path)) == 0
    said = capsys.readouterr().out
    assert "fastest for one image at a time: int8 with --engine ort\n" in said
    assert "fastest for many images: fp32 with --engine ort\n" in said
    assert "left out: fp16_ungated: no loss recorded" in said
    content = json.loads(path.read_text())
    assert [(row["build"], row["images_per_s"]) for row in content["rows"]] == [
        ("fp32", 300.0),
        ("int8", 250.0),
    ]
    assert content["machine"]["cores"] and "int8_lost" in content["left_out"]


def test_every_candidate_is_measured_both_ways_once_if_the_minute_is_over(
    workspace, monkeypatch, capsys
):
    monkeypatch.setattr(advice, "BUDGET_SECONDS", 0.0)
    counted = []
    measure = advice._measure
    monkeypatch.setattr(advice, "_measure", lambda *args: counted.append(args) or measure(*args))
    assert advise(workspace, "-t", "0.05") == 0
    builds = [job.model.parent.name for job, _ in counted]
    assert set(builds) >= {"fp32", "int8"} and all(builds.count(name) == 2 for name in builds)
    assert all(job.instances * job.threads >= 1 for job, _ in counted)
    assert capsys.readouterr().out.count(" images/s  ") == len(builds) // 2


def test_the_best_round_counts(workspace, monkeypatch):
    """A program that disturbs one round does not decide."""
    clock = iter([0.0, 0.0, 20.0, 20.0, 40.0, 40.0, 60.0])
    monkeypatch.setattr(advice.time, "monotonic", lambda: next(clock))
    rates = iter([(3000, 10.0), (3000, 10.0), (1000, 30.0), (1000, 30.0), (2000, 20.0)] * 2)

    class Measured:
        def __init__(self, row):
            self.latency, self.rate = row

        def latency_us(self):
            return {"p50": self.latency}

    monkeypatch.setattr(advice, "_measure", lambda job, seconds: Measured(next(rates)))
    (found, *_) = find_candidates(workspace / "fp32" / "mod")
    job = advice.Job(workspace / "fp32" / "mod")
    (best,) = advice.measure_candidates(job, found[:1])
    assert best == Speed(1.0, 30.0)


def test_nothing_to_choose_is_an_error(workspace, capsys):
    assert advise(workspace, "--engine", "openvino") == 2
    assert "no build beside" in capsys.readouterr().err
    assert advise(workspace, "--vamp", "vamp") == 2
    assert "omit --vamp" in capsys.readouterr().err
