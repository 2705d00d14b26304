"""The gate: limits and where they come from, and that a build that fails is not written."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from facezoo.artifact import read_artifact
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.card import GATE_LIMITS
from facezoo.cli import options
from facezoo.cli.compile import override
from facezoo.cli.main import main
from facezoo.compiler.calibration import open_calibration
from facezoo.compiler.gate import Check, Gate, GateSettings, open_gate, read_gate_settings
from facezoo.contract import read_contract
from facezoo.errors import ConfigError, GateError, InputError
from facezoo.evaluation.measured import MeasuredList
from facezoo.image.files import write_image_rgb
from facezoo.models import find_card
from facezoo.reports import plots
from facezoo.testing import tiny_scrfd
from facezoo.vacc.build_config import read_build_config
from onnx import TensorProto, helper, numpy_helper

YAML = """
name: toy_int8
frontend: {{type: onnx, checkpoint: {checkpoint}, shape: {{input.1: [1, 3, 64, 64]}}}}
backend: {{type: tvm_vacc, dtype: int8, quantize: {{{quantize}}}}}
dataset:
  path: calibration
  sampler: {{suffix: png, get_data_num: 4}}
  process_ops:
  - {{type: DecodeImage}}
  - {{type: Resize, size: [64, -1], adaptive_side: long}}
  - {{type: Pad, pad_to_square: true}}
  - {{type: Normalize, div255: false, mean: [127.5, 127.5, 127.5], std: [128, 128, 128]}}
  - {{type: ToTensor}}
workspace: {{path: out}}
"""
TINY_LIMITS = """
limits: {missed_share: 0.3, extra_share: 0.3, mean_iou: 0.8, mean_score: 0.1}
"""


def write_yaml(checkpoint="tiny.onnx", quantize="", gate=None):
    Path("toy.yaml").write_text(YAML.format(checkpoint=checkpoint, quantize=quantize))
    if gate is not None:
        Path("toy.gate.yaml").write_text(gate)
    return read_build_config(Path("toy.yaml"))


def paint(folder, count, seed):
    """Dark noise with bright squares, which the tiny network takes for faces."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.integers(0, 60, (64, 64, 3), np.uint8)
        for _ in range(2):
            y, x = 8 * rng.integers(0, 6, 2)
            image[y : y + 16, x : x + 16] = rng.integers(200, 256)
        write_image_rgb(Path(folder, f"{index}.png"), image)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint("calibration", 4, 1)
    paint("held", 4, 2)
    tiny_scrfd(Path("tiny.onnx"))
    return tmp_path


# Checks and settings


@pytest.mark.parametrize(
    ("name", "value", "passed", "line"),
    [
        ("missed_share", 0.05, True, "missed_share        0.0500  at most 0.06     ok"),
        ("missed_share", 0.06, True, "missed_share        0.0600  at most 0.06     ok"),
        ("missed_share", 0.061, False, "missed_share        0.0610  at most 0.06     FAILED"),
        (
            "missed_share",
            float("nan"),
            False,
            "missed_share           nan  at most 0.06     FAILED",
        ),
        ("cosine_mean", 0.07, True, "cosine_mean         0.0700  at least 0.06     ok"),
        ("cosine_mean", 0.05, False, "cosine_mean         0.0500  at least 0.06     FAILED"),
        (
            "cosine_mean",
            float("nan"),
            False,
            "cosine_mean            nan  at least 0.06     FAILED",
        ),
    ],
)
def test_limits_are_at_most_or_at_least(name, value, passed, line):
    check = Check(name, value, 0.06)
    assert check.passed == passed
    assert str(check) == line


def test_limits_are_the_cards_for_every_task():
    assert set(GATE_LIMITS) == {
        "face_detection",
        "face_alignment",
        "face_recognition",
        "face_quality",
    }
    card = find_card("scrfd_500m_bnkps")
    assert card.gate_limits == {**GATE_LIMITS["face_detection"], **card.gate}


def test_settings_beside_the_yaml(tmp_path):
    assert read_gate_settings(tmp_path / "x.yaml") == GateSettings()
    (tmp_path / "x.gate.yaml").write_text(
        "images: held\nground_truth: truth\neval_list: list.txt\nlimits: {mean_iou: 1}\n"
    )
    assert read_gate_settings(tmp_path / "x.yaml") == GateSettings(
        Path("held"), Path("truth"), Path("list.txt"), {"mean_iou": 1.0}
    )
    (tmp_path / "x.gate.yaml").write_text("")
    assert read_gate_settings(tmp_path / "x.yaml") == GateSettings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image: held", "unknown key 'image'; the nearest is 'images'"),
        ("limits: {mean_io: 1}", "unknown limit 'mean_io'; the nearest is 'mean_iou'"),
        ("limits: {mean_iou: high}", "limits.mean_iou is 'high'; expected a number"),
        ("limits: {mean_iou: true}", "limits.mean_iou is True; expected a number"),
        ("limits: {mean_iou: .nan}", "limits.mean_iou is nan; expected a number from -1e+06 to"),
        ("limits: {mean_iou: -.inf}", "limits.mean_iou is -inf; expected a number"),
        ("limits: {nme: 1" + "0" * 400 + "}", "expected a number from -1e+06 to 1e+06"),
        ("limits: [1]", "limits is [1]; expected a mapping"),
        ("images: [a, b]", "images is ['a', 'b']; expected a path"),
        ("[a", "not valid YAML"),
        ("- a", "expected the keys images, ground_truth"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, text, says):
    (tmp_path / "x.gate.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        read_gate_settings(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


# Which pictures


def test_held_out_pictures_or_the_calibrations_own_with_a_warning(workspace, caplog):
    config = write_yaml()
    data = open_calibration(config)
    held = open_gate(config, GateSettings(images=Path("held")), data)
    assert held.held_out
    assert [path.name for path in held.pictures] == ["0.png", "1.png", "2.png", "3.png"]
    assert caplog.text == ""
    own = open_gate(config, GateSettings(), data)
    assert (own.held_out, own.pictures) == (False, data.paths)
    assert "uses the calibration files, so its result is too optimistic" in caplog.text
    assert open_gate(config, GateSettings()) is None
    assert (
        "accuracy gate skipped: no images to compare the build with fp32; give some" in caplog.text
    )


def test_held_out_pictures_that_were_calibrated_on_are_noticed(workspace, caplog):
    config = write_yaml()
    Path("held", "copy.png").write_bytes(Path("calibration", "0.png").read_bytes())
    gate = open_gate(config, GateSettings(images=Path("held")), open_calibration(config))
    assert not gate.held_out
    assert (
        "1 of 5 images of the accuracy gate, such as held/copy.png, are also calibration"
        in caplog.text
    )


def test_a_folder_without_pictures_is_an_error(workspace):
    Path("none").mkdir()
    with pytest.raises(InputError):
        open_gate(write_yaml(), GateSettings(images=Path("none")))


# The judgement


def gate_of(**settings):
    return Gate(sorted(Path("held").glob("*.png")), True, GateSettings(**settings))


def changed(path, change):
    """Return a graph with some weights changed."""
    model = onnx.load(str(path))
    for entry in model.graph.initializer:
        array = change(entry.name, numpy_helper.to_array(entry).copy())
        entry.CopyFrom(numpy_helper.from_array(array, entry.name))
    return model.SerializeToString()


def test_the_same_network_passes_exactly(workspace):
    graph = Path("tiny.onnx").read_bytes()
    gate = gate_of()
    report = gate(graph, graph)
    measured = report["measured"]
    assert measured["faces"] >= 4
    assert measured["missed_share"] == measured["extra_share"] == measured["mean_score"] == 0
    assert measured["mean_iou"] == 1
    assert report["pictures"] == 4
    assert report["held_out"] is True
    assert [check.name for check in gate.checks] == list(report["limits"])
    assert all(check.passed for check in gate.checks)


@pytest.mark.parametrize(
    ("part", "factor", "says"),
    [
        ("score_8.bias", 3.0, "missed_share"),  # -3 becomes -9: fewer faces
        ("score_8.bias", -6.0, "extra_share"),  # 18: more faces
        ("bbox_8.weight", 5.0, "mean_iou|missed_share"),
        ("score_8.weight", 0.7, "mean_score|missed_share"),
    ],
)
def test_a_network_that_lost_something_is_refused(workspace, part, factor, says):
    worse = changed("tiny.onnx", lambda name, a: a * np.float32(factor) if name == part else a)
    with pytest.raises(GateError, match=says) as caught:
        gate_of()(Path("tiny.onnx").read_bytes(), worse)
    assert "nothing was written" in str(caught.value)
    assert caught.value.exit_code == 3


def test_outputs_that_are_no_numbers_are_refused(workspace):
    broken = changed("tiny.onnx", lambda name, a: a * np.nan if name == "bbox_8.bias" else a)
    with pytest.raises(GateError):
        gate_of()(Path("tiny.onnx").read_bytes(), broken)


def test_own_limits_stand_in_for_the_cards(workspace, caplog):
    graph = Path("tiny.onnx").read_bytes()
    worse = changed("tiny.onnx", lambda name, a: a + np.float32(0.02) if "score" in name else a)
    gate_of()(graph, graph)
    with pytest.raises(GateError, match=r"mean_score 0\.\d+, at most 0$|mean_score .*at most 0;"):
        gate_of(limits={"mean_score": 0.0})(graph, worse)
    assert caplog.text == ""
    gate_of(limits={"ap_easy_loss": 0.1})(graph, graph)
    assert "no such measure for this network: ap_easy_loss" in caplog.text


def test_no_face_is_nothing_to_judge_by(workspace):
    for path in Path("held").iterdir():
        write_image_rgb(path, np.zeros((64, 64, 3), np.uint8))
    graph = Path("tiny.onnx").read_bytes()
    with pytest.raises(GateError, match=r"finds no face in 4 images.*--images"):
        gate_of()(graph, graph)


def test_a_picture_that_cannot_be_read_is_left_out_by_name(workspace, caplog):
    Path("held", "1.png").write_bytes(b"no picture")
    graph = Path("tiny.onnx").read_bytes()
    gate_of()(graph, graph)
    assert "not used by the accuracy gate: held/1.png" in caplog.text


# From the command line


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_calibration_and_gate_show_their_progress(workspace, monkeypatch, caplog, quiet):
    monkeypatch.setattr(options, "SECONDS_PER_LINE", 0.0)
    caplog.set_level(logging.INFO)
    write_yaml(gate=TINY_LIMITS)
    assert main(["compile", "toy.yaml", "--images", "held", *quiet]) == 0
    for what in ("calibration", "accuracy gate"):
        assert (f"{what}: 1 of 4 done" in caplog.text) == (not quiet)


def test_int8_is_calibrated_judged_and_recorded(workspace, capsys):
    write_yaml(gate=TINY_LIMITS)
    assert main(["compile", "toy.yaml", "--images", "held"]) == 0
    printed = capsys.readouterr().out
    assert "gate      against fp32 on 4 held-out images" in printed
    assert re.search(r"speed +[\d.]+ ms per image, fp32 [\d.]+ ms: [\d.]+x the time", printed)
    artifact = read_artifact(Path("out/toy_int8/mod"))
    assert artifact.dtype == "int8"
    build = artifact.build
    assert [entry["file"] for entry in build.calibration] == [f"{i}.png" for i in range(4)]
    assert build.gate["held_out"] is True
    assert build.gate["limits"]["mean_iou"] == 0.8
    assert build.gate["measured"]["mean_iou"] >= 0.8
    contract = read_contract(artifact.model)
    assert contract.card_id == "scrfd_500m_bnkps"
    # vamc, which has the vendor's flags only, takes the pictures from the settings.
    write_yaml(gate=f"images: held\n{TINY_LIMITS}")
    assert main(["vamc", "compile", "toy.yaml"]) == 0
    assert "4 held-out images" in capsys.readouterr().out


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize("arithmetic", ["auto", "portable", "full"])
def test_int8_weights_are_as_requested_and_recorded(
    workspace, monkeypatch, caplog, arithmetic, saturates
):
    for module in ("compiler.quantize", "backends.int8"):
        monkeypatch.setattr(f"facezoo.{module}.saturates", lambda kind: saturates)
    # A CPU that is said to be another computes what it computes, which is not the question here.
    write_yaml(gate="limits: {missed_share: 1, extra_share: 9, mean_iou: 0, mean_score: 1}")
    with caplog.at_level(logging.WARNING):
        args = ["--arithmetic", arithmetic, "--threads", "1"]
        assert main(["compile", "toy.yaml", "--images", "held", *args]) == 0
    artifact = read_artifact(Path("out/toy_int8/mod"))
    full = arithmetic == "full" or (arithmetic == "auto" and not saturates)
    assert artifact.build.int8_weights == ("full" if full else "portable")
    largest = max(
        np.abs(array.astype(int)).max()
        for array in map(numpy_helper.to_array, onnx.load(artifact.model).graph.initializer)
        if array.dtype == np.int8 and array.ndim == 4
    )
    assert largest == (127 if full else 64)
    # Only where this CPU could not show it, the gate computes what another CPU would.
    elsewhere = saturates and full
    assert artifact.build.gate.get("exact", False) == elsewhere
    assert ("the accuracy gate computes them exactly" in caplog.text) == elsewhere
    if not elsewhere:
        open_backend(artifact.prefix).close()
        return
    with pytest.raises(InputError, match=r"--arithmetic portable.*--allow-saturation"):
        open_backend(artifact.prefix)
    with pytest.raises(InputError, match="full-range int8 weights"):
        open_backend(artifact.model)
    caplog.clear()
    with open_backend(artifact.prefix, RuntimeOptions(allow_saturation=True)) as backend:
        assert backend.settings()["device"] == "CPUExecutionProvider, int8 saturates"
    assert "results are wrong" in caplog.text


def test_arithmetic_is_for_int8_only(workspace, capsys):
    write_yaml()
    assert main(["compile", "toy.yaml", "--dtype", "fp32", "--arithmetic", "full"]) == 2
    assert "--arithmetic full is for int8, but this build is fp32" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("saturates", [True, False])
def test_a_build_that_records_no_range_opens_with_a_warning(
    workspace, monkeypatch, caplog, saturates
):
    monkeypatch.setattr("facezoo.backends.int8.saturates", lambda kind: saturates)
    write_yaml(gate=TINY_LIMITS)
    assert main(["compile", "toy.yaml", "--images", "held"]) == 0
    record = Path("out/toy_int8/mod.build.json")
    entry = json.loads(record.read_text())
    del entry["int8_weights"]
    record.write_text(json.dumps(entry))
    with caplog.at_level(logging.WARNING), open_backend(Path("out/toy_int8/mod")):
        assert ("does not record the range of its int8 weights" in caplog.text) == saturates


def test_a_failing_build_is_not_written(workspace, capsys):
    write_yaml(gate="images: held\nlimits: {mean_iou: 0.9999}\n")
    assert main(["compile", "toy.yaml"]) == 3
    shown = capsys.readouterr()
    assert re.search(r"mean_iou +0\.9\d+  at least 0.9999   FAILED", shown.out)
    assert "the accuracy gate rejects the build on 4 images: " in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not Path("out").exists()


def test_fp16_passes_through_the_gate(workspace, capsys):
    config = write_yaml(gate=TINY_LIMITS)
    assert main(["compile", "toy.yaml", "--dtype", "fp16", "--images", "held"]) == 0
    assert "4 held-out images" in capsys.readouterr().out
    gate = read_artifact(Path("out/toy_fp16/mod")).build.gate
    assert gate["measured"]["mean_iou"] > 0.99
    measured = MeasuredList.of("held", "images", [f"held/{index}.png" for index in range(4)])
    assert gate["measured_on"] == measured.to_dict()
    assert main(["compile", "toy.yaml", "--dtype", "fp16"]) == 0
    assert "4 calibration images" in capsys.readouterr().out
    for path in Path("calibration").iterdir():
        path.unlink()
    assert main(["compile", "toy.yaml", "--dtype", "fp16"]) == 0
    assert "gate" not in capsys.readouterr().out
    assert main(["compile", "toy.yaml", "--dtype", "fp32"]) == 0
    assert read_artifact(Path("out/toy_fp32/mod")).build.gate is None
    assert override(config, dtype="fp16").name == "toy_fp16"


def joined_heads(path):
    """A network of no card: a score in [0, 1] and a box up to 640 in one tensor."""
    rng = np.random.default_rng(5)
    weights = {
        "ws": rng.normal(0, 0.2, (2, 3, 8, 8)),
        "wb": np.abs(rng.normal(0, 1, (4, 3, 8, 8))),
        "bb": np.full(4, 320.0),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "ws"], ["logit"], strides=[8, 8]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
        helper.make_node("Conv", ["input.1", "wb", "bb"], ["raw"], strides=[8, 8]),
        helper.make_node("Relu", ["raw"], ["box"]),
        helper.make_node("Concat", ["score", "box"], ["joined"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "joined",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["b", 3, 64, 64])],
        [helper.make_tensor_value_info("joined", TensorProto.FLOAT, ["b", 6, 8, 8])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, path)


def test_joined_heads_are_linted_refused_found_and_repaired(workspace, capsys, caplog, monkeypatch):
    monkeypatch.setattr(
        "facezoo.cli.sensitivity._times", lambda graphs, _: dict.fromkeys(graphs, 1)
    )
    joined_heads("joined.onnx")
    write_yaml("joined.onnx")
    with caplog.at_level(logging.WARNING):
        assert main(["compile", "toy.yaml", "--images", "held"]) == 3
    assert "worst_channel       1.0000  at most 0.5      FAILED" in capsys.readouterr().out
    assert not Path("out").exists()
    (line,) = [r.getMessage() for r in caplog.records if "different ranges" in r.getMessage()]
    advised = re.search(r"exclude_layers: \[\d+\]", line)[0]
    draw, drawn = plots.plot_sensitivity, []
    monkeypatch.setattr(plots, "plot_sensitivity", lambda *a: drawn.append(a) or draw(*a))
    assert main(["sensitivity", "toy.yaml", "--json", "s.json", "--plot", "s.png"]) == 0
    printed = capsys.readouterr().out
    assert "lint: Concat" in printed
    assert printed.splitlines()[-1] == advised
    lists = {one["list"]: one for one in json.loads(Path("s.json").read_text())["lists"]}
    assert lists["found"]["best"] and lists["found"]["lost"] < 0.2 * lists["of the YAML"]["lost"]
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    assert (drawn[0][2], len(drawn[0][3])) == ("joined", advised.count(",") + 1)
    assert drawn[0][3] <= set(drawn[0][0])
    image = next(Path("calibration").iterdir())
    before = image.read_bytes()
    for flag in ("--json", "--plot"):
        assert main(["sensitivity", "toy.yaml", flag, str(image)]) == 2
        assert "is read by this command" in capsys.readouterr().err
        assert image.read_bytes() == before
    write_yaml("joined.onnx", quantize=advised)
    # A list that cannot be bettered is kept.
    assert main(["sensitivity", "toy.yaml", "--json", "s.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == advised
    assert main(["compile", "toy.yaml", "--images", "held"]) == 0
    gate = read_artifact(Path("out/toy_int8/mod")).build.gate
    assert gate["measured"]["worst_channel"] < 0.5


def test_code_and_leaks_are_allowed_by_hand_only(workspace, capsys):
    write_yaml()
    assert main(["compile", "toy.yaml", "--eval-list", "calibration"]) == 2
    assert "has the same content as" in capsys.readouterr().err
    gate = f"eval_list: calibration\n{TINY_LIMITS}"
    write_yaml(gate=gate)
    assert main(["vamc", "compile", "toy.yaml"]) == 2
    assert main(["compile", "toy.yaml", "--allow-leak", "--images", "held"]) == 0
    text = Path("toy.yaml").read_text()
    custom = "  process_ops: [{type: CustomFunc, module_path: m.py, func_name: f}]\n"
    start, end = text.index("  process_ops"), text.index("workspace")
    Path("toy.yaml").write_text(text[:start] + custom + text[end:])
    capsys.readouterr()
    assert main(["compile", "toy.yaml", "--allow-leak"]) == 2
    assert "--allow-custom-code" in capsys.readouterr().err


def with_large_values(path, *factors):
    """Multiply the input by each factor in turn, and divide by all of them."""
    model = onnx.load(path)
    (entry,) = model.graph.input
    steps = [*factors, *(1 / factor for factor in factors)]
    names = [entry.name, *(f"step_{index}" for index in range(len(steps)))]
    for node in model.graph.node:
        node.input[:] = [names[-1] if name == entry.name else name for name in node.input]
    for index, value in enumerate(steps):
        constant = numpy_helper.from_array(np.float32(value), f"factor_{index}")
        model.graph.initializer.append(constant)
        node = helper.make_node(
            "Mul", [names[index], constant.name], [names[index + 1]], name=f"times_{index}"
        )
        model.graph.node.insert(index, node)
    onnx.save(model, path)


@pytest.mark.parametrize("words", [(), ("--images", "held")], ids=["calibration", "held out"])
def test_activations_beyond_float16_are_refused_with_the_layer(workspace, capsys, words):
    with_large_values("tiny.onnx", 1000)
    write_yaml(gate=TINY_LIMITS)
    assert main(["compile", "toy.yaml", "--dtype", "fp16", *words]) == 0
    assert re.search(r"activation +\d+\.\d+  at most 65504    ok", capsys.readouterr().out)
    gate = read_artifact(Path("out/toy_fp16/mod")).build.gate
    assert 900 < gate["measured"]["activation"] < 1100
    # In two steps, since each factor is a weight, which has float16's range too.
    tiny_scrfd(Path("tiny.onnx"))
    with_large_values("tiny.onnx", 1000, 100)
    Path("out/toy_fp16/mod.onnx").unlink()
    assert main(["compile", "toy.yaml", "--dtype", "fp16", *words]) == 3
    shown = capsys.readouterr()
    assert re.search(r"activation 9\d{4}.*, at most 65504", shown.err)
    assert re.search(r"Mul 'times_1' gives it on '(calibration|held)/\d\.png', and", shown.err)
    assert not Path("out/toy_fp16/mod.onnx").exists()


def test_wrong_operations_of_the_calibration_data_are_the_reason_of_a_skipped_gate(
    workspace, caplog
):
    write_yaml()
    yaml = Path("toy.yaml")
    yaml.write_text(yaml.read_text().replace("size: [64, -1]", "size: [32, -1]"))
    assert main(["compile", "toy.yaml", "--dtype", "fp16"]) == 0
    assert "accuracy gate skipped" in caplog.text
    assert "no images" not in caplog.text
    assert "process_ops" in caplog.text and "[1, 3, 64, 64]" in caplog.text
