"""The vendor's build YAML: everything its recipes use is taken, everything else is named."""

import logging
from pathlib import Path

import pytest
from facezoo.errors import ConfigError
from facezoo.vacc.build_config import (
    LARGEST_FILE,
    BuildConfig,
    ExtraOps,
    ProcessOp,
    Sampler,
    parse_build_config,
    read_build_config,
)
from hypothesis import given
from hypothesis import strategies as st

SCRFD = """
name: official_scrfd_int8
frontend:
  shape:
    input.1: [1, 3, 640, 640]
  type: onnx
  checkpoint: weights/scrfd_500m.onnx
  dtype: fp32
backend:
  type: tvm_vacc
  dtype: int8
  compile:
    data_transport_mode: 1
    cluster_mode: 0
  quantize:
    calibrate_mode: max
    quantize_per_channel: true
dataset:
  type: tvm
  path: data/calib
  sampler:
    suffix: jpg
    get_data_num: 50
  process_ops:
    - type: DecodeImage
    - type: Resize
      size: [640, -1]
      adaptive_side: long
    - type: Pad
      pad_to_square: true
    - type: Normalize
      div255: null
      mean: [127.5, 127.5, 127.5]
      std: [128, 128, 128]
    - type: ToTensor
workspace:
  path: ./deploy_weights/
"""

SHORT = """
name: toy_fp16
frontend: {{checkpoint: toy.onnx, shape: {{input: [1, 3, 8, 8]}}, {frontend}}}
backend: {{type: tvm_vacc, dtype: fp16, {backend}}}
workspace: {{{workspace}}}
{rest}
"""


def parse(text: str) -> BuildConfig:
    return parse_build_config(text.encode(), Path("x.yaml"))


def short(frontend="type: onnx", backend="", workspace="path: out", rest="") -> str:
    return SHORT.format(frontend=frontend, backend=backend, workspace=workspace, rest=rest)


def with_op(op: str) -> str:
    return short(rest=f"dataset: {{process_ops: [{op}]}}")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_is_read_whole():
    config = parse(SCRFD)
    assert config.name == "official_scrfd_int8"
    assert config.prefix == Path("deploy_weights/official_scrfd_int8/mod")
    assert config.frontend.checkpoint == Path("weights/scrfd_500m.onnx")
    assert config.frontend.shape == {"input.1": ((1, 3, 640, 640),)}
    assert config.backend.dtype == "int8"
    assert config.backend.compile == {"data_transport_mode": 1, "cluster_mode": 0}
    assert config.backend.quantize.calibrate_mode == "max"
    assert config.dataset.path == Path("data/calib")
    assert config.dataset.sampler == Sampler("jpg", 50)
    assert [op.type for op in config.dataset.process_ops] == [
        "DecodeImage",
        "Resize",
        "Pad",
        "Normalize",
        "ToTensor",
    ]
    assert config.dataset.process_ops[1].arguments == {"size": (640, -1), "adaptive_side": "long"}
    assert config.extra_ops == ExtraOps()


def test_absent_and_null_div255_stay_apart():
    ops = parse(with_op("{type: Normalize, div255: null}, {type: Normalize}")).dataset.process_ops
    assert ops == (ProcessOp("Normalize", {"div255": None}), ProcessOp("Normalize", {}))


@pytest.mark.parametrize(
    "op",
    [
        "{type: DecodeImage, cv2_flags: 0}",
        "{type: DecodeImage, backend: pillow}",
        "{type: Resize, size: [736, 1280]}",
        "{type: Resize, size: [640, 640], adaptive_side: long}",
        "{type: Resize, size: [224, 224], interpolation: bicubic, backend: pillow}",
        "{type: CenterCrop, crop_size: [299, 299], backend: pillow}",
        "{type: CvtColor, code: COLOR_RGB2YCrCb}",
        "{type: ChannelSplit, index: 0}",
        "{type: Normalize, mean: [0.5], std: [0.5]}",
        "{type: Normalize, norm_type: null, div255: true}",
        "{type: Normalize, norm_type: 'None'}",
        "{type: CustomFunc, module_path: pre.py, func_name: load, input_shape: [3, 8, 8]}",
    ],
)
def test_process_ops_of_the_corpus_are_taken(op):
    parse(with_op(op))


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("{type: LetterBox}", "dataset.process_ops[0].type is 'LetterBox'; expected one of Decode"),
        ("{type: Resize}", "dataset.process_ops[0].size is missing"),
        ("{type: Resize, size: [640, -1]}", "adaptive_side"),
        ("{type: Resize, size: [-1, 640], adaptive_side: long}", "at least 1"),
        ("{type: Resize, size: [640]}", "[height, width]"),
        ("{type: Resize, size: [8, 8], interpolation: cubic}", "bilinear, bicubic"),
        ("{type: CvtColor, code: COLOR_RGB2BRG}", "COLOR_RGB2BGR"),
        ("{type: Normalize, mean: [1, 2], std: [1, 2]}", "three, or one"),
        ("{type: Normalize, mean: [0, 0, 0]}", "mean and std together"),
        ("{type: Normalize, mean: [0, 0, 0], std: [1, 0, 1]}", "other than 0"),
        ("{type: Normalize, mean: [0, 0, .nan], std: [1, 1, 1]}", "finite"),
        (f"{{type: Normalize, mean: [1], std: [1{400 * '0'}]}}", "finite"),
        ("{type: Normalize, div_255: true}", "nearest known one is 'div255'"),
        ("{type: Pad, pad_to_square: 1}", "true or false"),
        ("DecodeImage", "expected a mapping"),
        ("{size: [8, 8]}", "type is None"),
    ],
)
def test_a_process_op_that_cannot_be_run_is_named(op, says):
    assert says in refusal(with_op(op))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SCRFD.replace("dtype: int8", "dtyp: int8"), "unknown key 'backend.dtyp'; the nearest"),
        (SCRFD.replace("backend:", "back_end:"), "unknown key 'back_end'; the nearest"),
        (
            SCRFD.replace("suffix:", "sufix:"),
            "'dataset.sampler.sufix'; the nearest known one is 'suf",
        ),
        (
            SCRFD.replace("dtype: int8", "dtype: bf16"),
            "backend.dtype is 'bf16'; expected one of fp",
        ),
        (SCRFD.replace("mode: max", "mode: min"), "backend.quantize.calibrate_mode is 'min'"),
        (SCRFD.replace("640, 640]", "640, 0]"), "frontend.shape.input.1[3] is 0"),
        (SCRFD.replace("640, 640]", "64000, 64000]"), "at most 268435456 values"),
        (SCRFD.replace("[1, 3, 640, 640]", "[]"), "expected a shape such as"),
        (SCRFD.replace("[1, 3, 640, 640]", "[[1, 3], [1]]"), "expected a shape such as"),
        (SCRFD.replace("get_data_num: 50", "get_data_num: 0"), "at least 1"),
        (SCRFD.replace("get_data_num: 50", "get_data_num: true"), "at least 1"),
        (SCRFD.replace("name: official_scrfd_int8", "name: 2024"), "in quotes"),
        (SCRFD.replace("official_scrfd_int8", "../up"), "separators"),
        (SCRFD.replace("  path: ./deploy_weights/", "  {}"), "workspace needs one path"),
        (SCRFD.replace("tvm_vacc", "tvm_runmodel"), "expected one of tvm_vacc"),
        (SCRFD.replace("name: official_scrfd_int8", ""), "name is missing"),
        ("- a\n- b", "expected a mapping"),
        ("", "expected a mapping"),
        ("model: {name: x}\nengine: {type: vacc}", "superseded schema"),
        (short(workspace="path: a, work_dir: b"), "got 2"),
        (short(rest="graph: {extra_ops: {extra_ops: {type: softmax}}}"), "second extra_ops"),
    ],
)
def test_what_the_schema_does_not_know_is_refused_with_its_place(text, says):
    message = refusal(text)
    assert says in message
    assert message.startswith("x.yaml: ")


def test_older_and_rarer_spellings_are_taken(caplog):
    config = parse(
        short(
            frontend="type: null, model_kwargs: {tp: 1}, quantize: {type: w8a16_gptq}",
            backend="merge_params: true, remove_params: false, dynamic_params: {is_elic_gs: true}, "
            "compile: , quantize: {calibrate_range: 0.99999, overflow_adaptive: 1}",
            workspace="work_dir: ./vacc, enable_ir: false, save_log: true, env_recheck: false",
            rest="graph: {extra_ops: {extra_ops: null, type: null, params: {num_classes: 80}}}\n"
            "dataset: {sampler: {suffix: null, get_data_num: 5}}",
        )
    )
    assert config.workspace.path == Path("vacc")
    assert config.workspace.options["save_log"] is True
    assert config.frontend.type is None
    assert config.backend.quantize.calibrate_range == 0.99999
    assert config.backend.quantize.options == {"overflow_adaptive": 1}
    assert config.dataset.sampler == Sampler(None, 5)
    assert config.extra_ops == ExtraOps(None, {"num_classes": 80})
    assert "graph.extra_ops.extra_ops is empty" in caplog.text


def test_a_range_of_shapes_is_kept():
    text = SCRFD.replace("[1, 3, 640, 640]", "[[1, 3, 416, 416], [1, 3, 640, 640]]")
    assert parse(text).frontend.shape == {"input.1": ((1, 3, 416, 416), (1, 3, 640, 640))}


def test_an_input_named_like_a_number_is_a_name():
    assert list(parse(SCRFD.replace("input.1:", "0:")).frontend.shape) == ["0"]


def test_private_keys_of_the_compiler_are_passed_through_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        compile_part = "compile: {opt_levl: 2, opt_level: 2}"
        config = parse(short(backend=f"{compile_part}, quantize: {{alibrate_mode: percentile}}"))
    assert config.backend.compile == {"opt_levl": 2, "opt_level": 2}
    assert config.backend.quantize.options == {"alibrate_mode": "percentile"}
    assert config.backend.quantize.calibrate_mode is None
    assert "backend.compile.opt_levl" in caplog.text
    assert "'calibrate_mode'" in caplog.text
    assert len(caplog.records) == 2


def test_known_keys_warn_of_nothing(caplog):
    parse(SCRFD)
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: &a [1]\nb: [*a, *a]", "alias *a"),
        (b"[" * 30000, "nested deeper"),
        (b"#" * (LARGEST_FILE + 1), "larger than"),
        (b"name: a\nname: b", "given twice"),
        (b"name: !!python/object/apply:os.system [echo]", "not valid YAML"),
        (b"a: [1", "not valid YAML"),
        (b"a: 1\n---\nb: 2", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"a: \x00", "not valid YAML"),
        (b"a: 2024-99-99", "not valid YAML"),
    ],
)
def test_hostile_files_are_refused_before_they_grow(data, says):
    with pytest.raises(ConfigError) as caught:
        parse_build_config(data, Path("x.yaml"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=200).map(str.encode) | st.binary(max_size=200))
def test_any_bytes_are_either_read_or_refused(data):
    with pytest.raises(ConfigError):
        parse_build_config(data, Path("x.yaml"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_build_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="directory"):
        read_build_config(tmp_path)


def test_a_file_is_read_as_its_text(tmp_path):
    path = tmp_path / "official_scrfd.yaml"
    path.write_text(SCRFD, encoding="utf-8")
    assert read_build_config(path).file == path
