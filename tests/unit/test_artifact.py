"""Artifacts: found by prefix, checked against their record, never half there."""

import json
import logging

import pytest
from facezoo.artifact import BuildInfo, read_artifact, write_artifact
from facezoo.errors import ConfigError, InputError

BUILD = BuildInfo(
    name="toy_fp16",
    dtype="fp16",
    arithmetic="float32",
    source="toy.onnx",
    source_sha256="0" * 64,
    card="toy",
    inputs={"input": ("batch", 3, 8, 8)},
    outputs=("score",),
    graph={"folded": {"Identity": 1}},
    deviation={"score": 1e-6},
    tools={"onnx": "1"},
    calibration=({"file": "a.jpg", "sha256": "1" * 64},),
    gate={"faces": 3},
)


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "deploy_weights" / "toy_fp16" / "mod"


def put_vendor_files(prefix):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".so", ".json", ".params"):
        prefix.with_name(prefix.name + suffix).write_bytes(b"vendor")


def test_what_is_written_is_read_back(prefix):
    written = write_artifact(prefix, b"graph", BUILD)
    read = read_artifact(prefix)
    assert read == written
    assert read.model.read_bytes() == b"graph"
    assert (read.name, read.dtype, read.has_vendor_files) == ("toy_fp16", "fp16", False)
    assert sorted(file.name for file in prefix.parent.iterdir()) == ["mod.build.json", "mod.onnx"]


def test_the_record_holds_the_hash_and_no_time(prefix):
    write_artifact(prefix, b"graph", BUILD)
    record = json.loads(prefix.with_name("mod.build.json").read_text())
    # sha256 of b"graph", from sha256sum.
    assert record["onnx_sha256"].startswith("eef93e1d14482804277fca0172464032")
    assert not any("time" in key or "date" in key for key in record)


def test_ours_stands_beside_the_vendors(prefix):
    put_vendor_files(prefix)
    only_vendor = read_artifact(prefix)
    assert (only_vendor.build, only_vendor.model, only_vendor.dtype) == (None, None, None)
    write_artifact(prefix, b"graph", BUILD)
    both = read_artifact(prefix)
    assert both.has_vendor_files
    assert both.dtype == "fp16"
    assert prefix.with_name("mod.json").read_bytes() == b"vendor"


def test_two_of_the_vendors_three_files_are_not_an_artifact(prefix):
    put_vendor_files(prefix)
    prefix.with_name("mod.params").unlink()
    with pytest.raises(InputError, match="no artifact at"):
        read_artifact(prefix)


def test_a_changed_graph_is_refused(prefix):
    write_artifact(prefix, b"graph", BUILD)
    prefix.with_name("mod.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match="sha256 differs"):
        read_artifact(prefix)


@pytest.mark.parametrize("missing", ["mod.onnx", "mod.build.json"])
def test_half_an_artifact_is_refused_by_name(prefix, missing):
    write_artifact(prefix, b"graph", BUILD)
    prefix.with_name(missing).unlink()
    with pytest.raises(InputError, match=f"{missing} beside it"):
        read_artifact(prefix)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "facezoo.build/9"}', '{"schema": 1}'])
def test_a_record_that_says_nothing_is_refused(prefix, text):
    write_artifact(prefix, b"graph", BUILD)
    prefix.with_name("mod.build.json").write_text(text)
    with pytest.raises(InputError, match="compile the artifact again"):
        read_artifact(prefix)


def test_a_missing_artifact_is_told_what_there_is(prefix):
    write_artifact(prefix, b"graph", BUILD)
    put_vendor_files(prefix.parent.with_name("official_int8") / "mod")
    with pytest.raises(InputError) as caught:
        read_artifact(prefix.parent.with_name("toy_int8") / "mod")
    assert "toy_fp16/mod" in str(caught.value)
    assert "official_int8/mod" in str(caught.value)
    with pytest.raises(InputError, match="nor any other beside it; create it with"):
        read_artifact(prefix.parent.parent.parent / "x" / "y" / "mod")


def test_a_folder_is_told_its_prefix(prefix):
    write_artifact(prefix, b"graph", BUILD)
    with pytest.raises(InputError, match=r"is a folder.*toy_fp16/mod"):
        read_artifact(prefix.parent)


def test_the_seeds_names_lead_to_todays(prefix, caplog):
    written = write_artifact(prefix, b"graph", BUILD)
    with caplog.at_level(logging.INFO):
        asked = prefix.parent.with_name("toy_run_stream_fp16") / "mod"
        assert read_artifact(asked) == written
    assert len(caplog.records) == 1
    assert "toy_run_stream_fp16" in caplog.text


def test_a_seeds_name_that_exists_is_taken_as_it_is(prefix, caplog):
    write_artifact(prefix, b"graph", BUILD)
    old = prefix.parent.with_name("toy_run_stream_fp16") / "mod"
    write_artifact(old, b"older", BUILD)
    assert read_artifact(old).model.read_bytes() == b"older"
    assert not caplog.records


def test_a_place_that_cannot_be_written_is_named(prefix):
    prefix.parent.parent.mkdir()
    prefix.parent.write_bytes(b"a file in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_artifact(prefix, b"graph", BUILD)


def test_a_write_that_stops_half_way_is_noticed(prefix, monkeypatch):
    write_artifact(prefix, b"graph", BUILD)

    def write_only_graphs(path, data):
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("facezoo.artifact.write_bytes", write_only_graphs)
        with pytest.raises(ConfigError, match="No space left"):
            write_artifact(prefix, b"newer", BUILD)
    with pytest.raises(InputError, match="sha256 differs"):
        read_artifact(prefix)
