"""Every field of every JSON document of ours with values of other types, refused by its name.

The run folder's own files, run.json and the journal, are in test_interrupts.py and test_states.py.
"""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from facezoo.artifact import read_artifact, write_artifact
from facezoo.contract import METADATA_KEY, Contract
from facezoo.errors import FaceZooError, InputError
from facezoo.files import finite, write_json
from facezoo.models import find_card
from facezoo.models.scrfd.decode import PROFILES
from facezoo.models.scrfd.model import FaceDetector
from facezoo.profiles.appearance import DEFAULT, default_limits, read_appearance
from facezoo.profiles.quality import make_quality_profile, read_quality, write_quality
from facezoo.profiles.similarity import (
    SimilarityPoint,
    SimilarityProfile,
    read_similarity,
    write_similarity,
)
from facezoo.vacc import npz, outputs
from fuzz_targets import BUILD, SHA256

WRONG = (
    *(None, True, 0, -2, 5, 10**30, 0.5, math.nan, math.inf, -math.inf),
    *("", "x", "1", "\x1b[2J", [], [1], [[]], ["x"], {}, {"x": 1}, {"": None}),
)


def contract(name):
    def read(path):
        return Contract.from_metadata({METADATA_KEY: path.read_text()})

    return json.loads(Contract.from_card(find_card(name)).to_metadata()[METADATA_KEY]), read


def quality(folder):
    profile = make_quality_profile(
        np.arange(100.0), "sdd_fiqa_r50", SHA256, {"mine": 7.5}, {"a": 1}
    )
    write_quality(folder / "profile.json", profile)
    return json.loads((folder / "profile.json").read_text()), lambda path: read_quality(
        path, SHA256
    )


def similarity(folder, is_first=False):
    points = (SimilarityPoint(1e-2, 0.3, 0.2, 0.4, 0.1), SimilarityPoint(1e-3, refusal="too few"))
    profile = SimilarityProfile("w600k_mbf", SHA256, 10, 2000, points, {"detector": None})
    write_similarity(folder / "profile.json", profile)
    entry = json.loads((folder / "profile.json").read_text())
    if is_first:
        entry["schema"] = "facezoo.similarity_profile/1"
        for point in entry["points"]:
            point["far"] = point.pop("fmr")
            if "fnmr" in point:
                point["tar"] = 1.0 - point.pop("fnmr")
    return entry, lambda path: read_similarity(path, SHA256)


def appearance(folder):
    entry = json.loads(DEFAULT.read_text("utf-8"))
    return entry, lambda path: read_appearance(path, entry["model_sha256"])


def build_info(folder):
    write_artifact(folder / "mod", b"graph", BUILD)

    def read(path):
        path.replace(folder / "mod.build.json")
        return read_artifact(folder / "mod")

    return json.loads((folder / "mod.build.json").read_text()), read


def vamp_index(folder):
    (folder / "list.txt").write_text("a.npz\n")
    array = {"output_0": np.zeros((1, 2), np.float16)}
    name = outputs.output_name(0)
    items = [{"path": name, "sha256": npz.write_npz(folder / "out" / name, array)}]
    made = {"engine": "ort", "engine_version": "1.0", "device": "CPU", "model_sha256": SHA256}
    graph = Contract.from_card(find_card("scrfd_500m_bnkps"))
    head = outputs.index_head(graph, "float16", folder / "list.txt", made)

    def read(path):
        path.replace(folder / "out" / outputs.INDEX_FILE)
        return outputs.OutputFolder(folder / "out", folder / "list.txt")

    return {"schema": outputs.INDEX_SCHEMA, **head, "outputs": items}, read


SETTINGS = {("settings",), ("facezoo",)}
# Document -> its content and reader; fields that may be missing; fields with any content, which are
# free; fields that may be null or of a second type.
DOCUMENTS = {
    "contract": (lambda folder: contract("scrfd_500m_bnkps"), set(), set()),
    "contract of landmarks": (lambda folder: contract("pip_resnet18"), set(), set()),
    "quality profile": (quality, SETTINGS, {("settings",)}),
    "similarity profile": (similarity, SETTINGS, {("settings",)}),
    "first similarity profile": (lambda f: similarity(f, True), SETTINGS, {("settings",)}),
    "appearance profile": (appearance, SETTINGS, {("settings",)}),
    "build info": (
        build_info,
        {(name,) for name in "graph deviation tools calibration gate int8_weights".split()},
        {("gate",)},
    ),
    "vamp.json": (
        vamp_index,
        {("engine",), ("engine_version",), ("device",), ("model_sha256",)},
        set(),
    ),
}
OPTIONAL_SCALES = {("points", 0, "l2"), ("points", 0, "degrees")}
# Fields with a second type besides that of the valid document.
EITHER = {
    ("preprocess", "resize_hw"): (list,),
    ("preprocess", "crop_hw"): (list,),
    ("contract", "preprocess", "resize_hw"): (list,),
    ("contract", "preprocess", "crop_hw"): (list,),
    ("card",): (type(None),),  # of a build; that of a profile is refused below
    ("inputs", "input", 0): (int,),
    ("inputs", "input", 1): (str,),
    ("inputs", "input", 2): (str,),
    ("graph", "folded"): (int,),
    ("graph", "prelu_rewritten"): (dict,),
    ("gate",): (type(None),),
}
# Entries under names that the document chooses.
CHOSEN = {("thresholds",), ("inputs",), ("graph",), ("graph", "folded"), ("deviation",), ("tools",)}


def nodes(value, path=()):
    """Yield the paths of a document's parts, of a list the first two."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:2] if isinstance(value, list) else items
    for key, inner in items:
        yield from nodes(inner, (*path, key))


def part(document, path):
    for key in path:
        document = document[key]
    return document


def may_be(value, valid, path):
    """Tell whether a value is of a type that the field of a valid document has."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    kinds = (type(valid), *EITHER.get(path, ()))
    return type(value) in (*kinds, *((int,) if float in kinds else ()))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_field_of_another_type_is_named(name, tmp_path):
    make, optional, free = DOCUMENTS[name]
    valid, read = make(tmp_path)
    tried = 0

    def answer(document):
        """Return what the reader says against a document; None if it takes it."""
        path = tmp_path / "tried.json"
        path.write_text(json.dumps(document))
        try:
            read(path)
        except FaceZooError as error:
            return str(error)
        return None

    assert answer(valid) is None
    for path in nodes(valid):
        if any(path[: len(one)] == one and path != one for one in free):
            continue
        above, last = path[:-1], path[-1]
        label = f"[{last}]" if isinstance(last, int) else str(last)
        for value in WRONG:
            changed = copy.deepcopy(valid)
            part(changed, above)[last] = value
            said = answer(changed)
            tried += 1
            if said is None or not may_be(value, part(valid, path), path):
                assert said is None or label in said, (path, value, said)
            if said is None:
                assert may_be(value, part(valid, path), path), (path, value)
            else:
                assert said.isprintable() and len(said) < 1700
        if isinstance(last, str):
            changed = copy.deepcopy(valid)
            del part(changed, above)[last]
            said = answer(changed)
            if above in CHOSEN:
                label = above[-1]  # perhaps too few are left
            elif last == "refusal":
                label = "points[1]"  # without it, the point lacks a threshold
            may_miss = path in optional | OPTIONAL_SCALES or above in CHOSEN
            assert (said is None and may_miss) or label in (said or ""), (path, said)
    for path in [(), *nodes(valid)]:
        if isinstance(part(valid, path), dict) and path not in free | CHOSEN:
            if any(path[: len(one)] == one for one in free):
                continue
            changed = copy.deepcopy(valid)
            part(changed, path)["unknown_field"] = 1
            assert "unknown_field" in (answer(changed) or ""), path
    assert tried >= 200


CONTRADICTIONS = [
    ("quality profile", ("thresholds", "mine"), 150.0),
    ("quality profile", ("thresholds", "mine"), -2),
    ("quality profile", ("percentiles", 3), 50.0),
    ("similarity profile", ("points", 0, "cosine", "threshold"), 5),
    ("similarity profile", ("points", 0, "cosine", "threshold"), -2),
    ("similarity profile", ("points", 0, "cosine", "threshold"), 0.9),
    ("similarity profile", ("points", 0, "fmr"), 0),
    ("first similarity profile", ("points", 0, "tar"), 1.5),
    ("appearance profile", ("limits", "max_truncation"), 5),
    ("appearance profile", ("limits", "min_size"), -2),
    ("appearance profile", ("found", "yaw", "groups", 0, 1), 1.5),
    ("build info", ("dtype",), "int4"),
    ("build info", ("source_sha256",), "00"),
    ("build info", ("inputs", "input", 1), 0),
    ("build info", ("deviation", "score"), -1),
    ("build info", ("onnx_sha256",), ""),
]


@pytest.mark.parametrize(("name", "path", "value"), CONTRADICTIONS)
def test_a_number_that_cannot_be_is_named(name, path, value, tmp_path):
    valid, read = DOCUMENTS[name][0](tmp_path)
    part(valid, path[:-1])[path[-1]] = value
    (tmp_path / "tried.json").write_text(json.dumps(valid))
    label = next(key for key in reversed(path) if isinstance(key, str))
    with pytest.raises(InputError, match=label):
        read(tmp_path / "tried.json")


# What we write ------------------------------------------------------------------------------------


def test_json_has_no_numbers_that_json_does_not_have(tmp_path):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "a.json", {"a": [value]})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "a.json", finite({"a": [math.nan, 1.5, (math.inf, 2)], "b": {"c": "d"}}))
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": [None, 1.5, [None, 2]],
        "b": {"c": "d"},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e9])
@pytest.mark.parametrize("limit", ["min_size", "min_sharpness", "max_yaw", "max_truncation"])
def test_a_limit_that_switches_itself_off_is_refused(limit, value):
    with pytest.raises(InputError, match=f"{limit} is "):
        replace(default_limits(), **{limit: value})
    assert getattr(replace(default_limits(), **{limit: np.float64(0.5)}), limit) == 0.5


@pytest.mark.parametrize("name", ["score_threshold", "nms_iou", "retry_border"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01, 1e6])
def test_a_detection_profile_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is "):
        FaceDetector(None, None, replace(PROFILES["demo"], **{name: value}))
