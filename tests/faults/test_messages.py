"""Each message with the situation that it names; tests of the parts have the others."""

import dataclasses
import importlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from facezoo.arrays import read_arrays
from facezoo.artifact import read_artifact
from facezoo.backends import RuntimeOptions, open_backend, ort
from facezoo.backends.ort import OrtBackend, open_session
from facezoo.card import Preprocess
from facezoo.cli.evaluate.protocol import LEDGER_IGNORES
from facezoo.cli.evaluate.protocol import _write_ledger as write_protocol_ledger
from facezoo.cli.options import embedder_source
from facezoo.cli.render import process_ops
from facezoo.compiler import quantize
from facezoo.compiler.advice import find_candidates
from facezoo.compiler.build import _fold
from facezoo.compiler.calibration import FileLoader
from facezoo.compiler.gate import Gate, GateSettings
from facezoo.compiler.quantize import _prepare
from facezoo.contract import Contract, read_contract
from facezoo.datasets.face_sets import check_sets, read_set, unpack_sets
from facezoo.datasets.image_list import read_lines
from facezoo.datasets.protocols import locate_photos, people_in_folds, read_protocol
from facezoo.datasets.recordio import RecordFile
from facezoo.datasets.wflw import read_rectangles
from facezoo.datasets.widerface import read_ground_truth, read_predictions, unpack_photos
from facezoo.deploy import triton
from facezoo.deploy.eject import _write_module, eject
from facezoo.deploy.recipes import recipe_of
from facezoo.doctor.checks import read_model_file
from facezoo.doctor.mistakes import ReferenceSetup, _Outputs, diagnose_points, diagnose_tensor
from facezoo.errors import (
    BackendRunError,
    BackendUnavailable,
    DecodeError,
    FaceZooError,
    GateError,
    GraphError,
    InputError,
)
from facezoo.evaluation import speed
from facezoo.evaluation.detection import _Packed
from facezoo.evaluation.embeddings import unpack_embeddings
from facezoo.evaluation.features import stream_batches
from facezoo.evaluation.landmarks import evaluate_results
from facezoo.evaluation.recognition_ledger import recognition_ledger
from facezoo.graphs.info import zeros
from facezoo.image.align import align_face, similarity_matrix
from facezoo.image.files import find_images, read_image_rgb, write_image_rgb
from facezoo.image.resize import _crop
from facezoo.metrics.detection import GroundTruth, Predictions, evaluate_detections
from facezoo.metrics.drift import DriftSum
from facezoo.metrics.landmarks import check_normalizer, normalized_mean_error
from facezoo.metrics.quality import area_ratio, error_versus_discard
from facezoo.metrics.verification import k_fold_accuracy, roc_curve
from facezoo.models.magface import graph as magface
from facezoo.models.magface.faces import read_face_pairs
from facezoo.models.magface.graph import export_released as export_recogniser
from facezoo.models.magface.model import FaceEmbedder
from facezoo.models.magface.settings import LossSettings
from facezoo.models.pfld import decode as pfld
from facezoo.models.pipnet import graph as pipnet_graph
from facezoo.models.pipnet.decode import compute_meanface, decode_maps, load_meanface, read_meanface
from facezoo.models.pipnet.graph import _backbone_of
from facezoo.models.scrfd.graph import recognise_heads, to_raw_heads
from facezoo.models.sdd_fiqa import decode as sdd_fiqa
from facezoo.models.sdd_fiqa.pseudo_labels import _check
from facezoo.profiles.quality import quality_at_fnmr
from facezoo.profiles.similarity import SimilarityPoint, SimilarityProfile
from facezoo.reports.numerics import read_counts, read_numerics
from facezoo.reports.readme import _file, _folder, _ledger, render_blocks
from facezoo.results import Placement, RawOutputs, _needed
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd
from facezoo.vacc.build_config import Quantize, parse_build_config
from facezoo.vacc.npz import INPUT_KEY, read_datalist, read_input
from facezoo.vacc.outputs import OutputFolder
from facezoo.vacc.vdsp import read_vdsp
from PIL import Image

FACE = np.zeros((112, 112, 3), np.uint8)
WHERE = Placement((1.0, 1.0), 0, 0, (112, 112), (112, 112))


def written(name, content, read):
    """Write a file and read it."""

    def act(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path)

    return act


def built_for_the_device(folder):
    for ending in (".so", ".json", ".params"):
        (folder / f"mod{ending}").write_bytes(b"{}")
    return folder / "mod"


def changed(make, change):
    """Make a small graph, change it, write it again."""

    def act(folder):
        path = make(folder / "net.onnx")
        model = onnx.load(str(path))
        change(model)
        onnx.save(model, str(path))
        return path

    return act


def with_contract(make, **fields):
    def change(model):
        found = Contract.from_metadata({e.key: e.value for e in model.metadata_props})
        other = dataclasses.replace(found, **fields)
        onnx.helper.set_model_props(model, other.to_metadata())

    return changed(make, change)


def without_contract(model):
    del model.metadata_props[:]


def face_set(images, pairs):
    def act(folder):
        (folder / "img.list").write_text("".join(f"{name}\n" for name in images))
        (folder / "pair.list").write_text("".join(f"{index} 1\n" for index in range(pairs)))
        return folder

    return act


def three_sets(folder):
    for name in ("lfw", "cfp", "agedb"):
        place = folder / name
        place.mkdir()
        face_set(["a.png", "b.png"], 1)(place)
        (place / "a.png").write_bytes(b"x")
        (place / "b.png").write_bytes(b"x")
    return folder


def tar_of(folder, names):
    path = folder / "sets.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    return path


def protocol(folder, photos=True):
    return locate_photos(read_protocol(two_folds(folder)), folder / ("none" if photos else "."))


def few_errors(missed, genuine):
    """Return distances, people and quality of pairs, of which so many genuine ones are far."""
    rng = np.random.default_rng(0)
    far = np.concatenate([np.ones(missed), np.zeros(genuine - missed), np.ones(1000)])
    firsts = np.arange(genuine)
    strangers = rng.permutation(np.arange(1000) % genuine)
    people = np.concatenate(
        [np.stack([firsts, firsts], 1), np.stack([strangers, (strangers + 1) % genuine], 1)]
    )
    return far, people, np.arange(len(far), dtype=float)[::-1]


def discard_curve(resamples):
    distances, people, _ = few_errors(12, 30)
    is_same = people[:, 0] == people[:, 1]
    quality = np.arange(len(distances), dtype=float)
    return error_versus_discard(distances, is_same, quality, 0.05, resamples=resamples)


def two_people(resamples):
    people = np.array([[0, 0]] * 9 + [[1, 1]] * 9 + [[0, 1]] * 500)
    distances = np.where(people[:, 0] == people[:, 1], np.arange(518) % 2.0, 1.0)
    # The first draw has one of them twice.
    return error_versus_discard(
        distances,
        people[:, 0] == people[:, 1],
        np.arange(518.0),
        0.1,
        people=people,
        resamples=resamples,
    )


def two_folds(folder):
    (folder / "pairs.txt").write_text("2\t1\n" + "anna\t1\t2\nanna\t1\tbert\t1\n" * 2)
    return folder / "pairs.txt"


def outputs(*arrays):
    names = [f"out{index}" for index in range(len(arrays))]
    return RawOutputs(dict(zip(names, arrays)), [WHERE])


def truth(**fields):
    kept = {"easy": np.ones(1, bool)}
    entries = {"images": ("e/a",), "starts": np.array([0, 1]), "boxes_xywh": np.ones((1, 4))}
    return GroundTruth(**{**entries, "levels": kept, **fields})


def predicted(**fields):
    entries = {"images": ("e/a",), "starts": np.array([0, 1]), "boxes_xywh": np.ones((1, 4))}
    return Predictions(**{**entries, "scores": np.ones(1), **fields})


def special_file(folder):
    os.mkfifo(folder / "pipe")
    return find_images(folder / "pipe")


def not_empty(folder):
    (folder / "product").mkdir()
    (folder / "product" / "mine.txt").write_text("")
    net = tiny_scrfd(folder / "net.onnx")
    return eject(net, read_contract(net), "", FACE, folder / "product")


def profile_without(folder):
    points = (SimilarityPoint(1e-3, refusal="too few pairs"),)
    return SimilarityProfile("card", None, 9, 9, points, {}).cosine_at(1e-3)


def recorded(content):
    """Write an index and records, and read the first image."""

    def act(folder):
        (folder / "a.idx").write_text("1\t0\n")
        (folder / "a.rec").write_bytes(content)
        with RecordFile(folder / "a.rec") as records:
            return records.read(1)

    return act


def part(body):
    return (0xCED7230A).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body


PIPNET_MAPS = {
    "cls": np.zeros((1, 98, 8, 8), np.float32),
    "x": np.full((1, 98, 8, 8), np.nan, np.float32),
    "y": np.zeros((1, 98, 8, 8), np.float32),
    "nb_x": np.zeros((1, 980, 8, 8), np.float32),
    "nb_y": np.zeros((1, 980, 8, 8), np.float32),
}

FILES = {
    "no arrays": (
        written("a.npz", b"PK\x03\x04x", read_arrays),
        r"a\.npz' is not an intact npz or",
    ),
    "a folder for a prefix": (
        lambda folder: open_backend(folder),
        "is a folder; expected a prefix or a file: there is none in it",
    ),
    "half an artifact": (
        lambda folder: read_artifact(tiny_scrfd(folder / "mod.onnx").with_name("mod")),
        r"has no mod\.build\.json beside it; copy both files together, or compile again",
    ),
    "a build for the device": (
        lambda folder: open_backend(built_for_the_device(folder), RuntimeOptions(engine="ort")),
        "was built for the device only; compile the .onnx for this machine too",
    ),
    "nothing to compare": (
        lambda folder: find_candidates(built_for_the_device(folder)),
        "was built for the device only; nothing to compare here",
    ),
    "outputs of another name": (
        lambda folder: open_backend(
            with_contract(tiny_scrfd, output_names=("a", "b", "c"))(folder),
            RuntimeOptions(engine="ort"),
        ),
        r"output 'a' not found; the model has .*; export it again with",
    ),
    "no graph for ONNX Runtime": (
        lambda folder: open_session(b"no graph", 1, name="net.onnx"),
        r"'net\.onnx' cannot be loaded by ONNX Runtime: ",
    ),
    "no contract": (
        lambda folder: read_contract(changed(tiny_scrfd, without_contract)(folder)),
        r"net\.onnx' carries no contract, so its pre-processing is unknown; export it",
    ),
    "no contract to diagnose": (
        lambda folder: read_model_file(changed(tiny_scrfd, without_contract)(folder), None),
        r"net\.onnx' carries no contract; name the network, such as scrfd_500m_bnkps",
    ),
    "faces that are not there": (
        lambda folder: read_set(face_set(["a.png", "b.png"], 1)(folder)),
        r"2 of 2 images of .*img\.list' are missing, the first is .*a\.png'",
    ),
    "another number of pairs": (
        lambda folder: check_sets(three_sets(folder)),
        r"lfw' has 1 pairs, expected 6000; unpack the archive again",
    ),
    "no tar": (
        written("a.tar", b"no tar", lambda path: unpack_sets(path, path.parent / "to")),
        r"a\.tar' cannot be unpacked: ",
    ),
    "another tar": (
        lambda folder: unpack_sets(tar_of(folder, ["x/y.txt"]), folder / "to"),
        r"sets\.tar' holds none of the folders lfw, .*; expected lfw_cfp_agedb\.tar",
    ),
    "an empty list": (
        written("l.txt", "\n", lambda path: list(read_lines(path))),
        r"l\.txt'.*: is empty; expected a list with one image per line",
    ),
    "a list of another encoding": (
        written("l.txt", b"a.png\n\xe9.png\n", lambda path: list(read_lines(path))),
        r"l\.txt'.*: line 2 is not UTF-8; convert the file",
    ),
    "no folder of photos": (protocol, "none' is not a folder; expected the photos of the pairs"),
    "photos of pairs": (
        lambda folder: protocol(folder, photos=False),
        r"3 of the 3 photos of the pairs are not in .*, the first is",
    ),
    "no records": (
        written("a.rec", b"", lambda path: next(iter(RecordFile(path)))),
        r"a\.rec'.*: is empty; expected records",
    ),
    "a record without an image": (
        recorded(part(b"1234")),
        r"record 1 has 4 bytes, expected at least \d+; it contains no image",
    ),
    "a record of labels": (
        recorded(part((1 << 20).to_bytes(4, "little") + bytes(24))),
        r"record 1 claims 1048576 labels in 4 bytes",
    ),
    "an index of words": (
        lambda folder: (
            written("a.idx", "one 0\n", lambda path: None)(folder),
            written("a.rec", part(bytes(24)), RecordFile)(folder),
        ),
        r"a\.idx'.*: line 1 is 'one 0'; expected a key and its start byte",
    ),
    "no rectangles": (
        written("r.json", "[]", read_rectangles),
        r"r\.json' cannot be read \(.*\); expected JSON like \{\"rects\"",
    ),
    "no ground truth": (
        read_ground_truth,
        r"wider_face_val\.mat' is missing; expected a folder with wider_face_val\.mat, ",
    ),
    "predictions of nowhere": (
        lambda folder: read_predictions(folder / "none"),
        "none' does not exist; expected a folder or archive of predictions",
    ),
    "an archive of nowhere": (
        lambda folder: unpack_photos(folder / "a.zip", folder),
        r"a\.zip' does not exist; expected a \.zip archive",
    ),
    "a folder that is not empty": (not_empty, "product' is not empty; choose a new folder"),
    "results of another kind": (
        written("results.json", b"\xff\xfe", lambda path: evaluate_results(path, path.parent)),
        r"results\.json' is not a .* file; create it with vsx_infer\.py",
    ),
    "a format that is not read": (
        lambda folder: (
            Image.fromarray(FACE).save(folder / "a.png", format="TGA"),
            read_image_rgb(folder / "a.png"),
        ),
        r"a\.png' is a TGA file, which is not read; save it as PNG",
    ),
    "a header that is damaged": (
        written("a.webp", b"RIFF\x00\x01\x00\x00WEBPVP8 \x10", read_image_rgb),
        r"a\.webp' is damaged: its header cannot be read \(.*\); replace it by an intact copy",
    ),
    "a photo that is damaged": (
        written("a.ppm", b"P6 9 9 255\n123", read_image_rgb),
        r"a\.ppm' is truncated: .*; replace it by an intact copy, or read it nevertheless",
    ),
    "a pipe for a photo": (special_file, "pipe' is a special file, not an image or a folder of"),
    "an image that is too long": (
        lambda folder: write_image_rgb(folder / "a.jpg", np.zeros((1, 70_000, 3), np.uint8)),
        r"a\.jpg': the image of 70000x1 pixels cannot be encoded as \.jpg; ",
    ),
    "pairs of three": (
        written("p.txt", "a.png b.png 2\n", read_face_pairs),
        r"p\.txt'.*: line 1 is .*; expected two images and 1 for one person, 0 for two",
    ),
    "no mean face": (
        written("m.txt", "0.1 0.2 0.3\n", read_meanface),
        r"m\.txt' is not a mean face: 3 numbers, expected x and y per landmark, all finite",
    ),
    "no numerics": (
        written("n.json", "[]", read_numerics),
        r"n\.json' is not a numerics file \(.*\); measure again",
    ),
    "no counts": (
        written("c.json", "[]", read_counts),
        r"c\.json' is not a counts file \(.*\); count again",
    ),
    "no ledger": (
        written(
            "face_detection/scrfd/ledger.json",
            "[]",
            lambda path: _ledger(path.parents[2], "scrfd", str),
        ),
        r"ledger\.json' is not a ledger \(.*\); measure again",
    ),
    "a page of bytes": (
        written("t.txt", b"\xff\xfe", _file),
        r"t\.txt' cannot be shown in a page: ",
    ),
    "inputs of another kind": (
        lambda folder: (
            np.savez(folder / "a.npz", other=np.zeros(3)),
            read_input(folder / "a.npz"),
        ),
        r"a\.npz' contains \{'other': .*\}; expected .*, uint8, \(3, height, width\): create it",
    ),
    "an empty input": (
        lambda folder: (
            np.savez(folder / "a.npz", **{INPUT_KEY: np.zeros((3, 0, 9), np.uint8)}),
            read_input(folder / "a.npz"),
        ),
        r"a\.npz' contains an empty image ",
    ),
    "a list that is too long": (
        written("l.txt", b"a\n" * 1_000_001, read_datalist),
        r"l\.txt' has 1000001 lines; expected at most 1000000, since vamp numbers its outputs",
    ),
    "a vdsp of one line": (
        written("v.json", "[]", lambda path: read_vdsp(path, Preprocess((1, 1)))),
        r"v\.json' must contain one object, got a list",
    ),
    "a vdsp that is no JSON": (
        written("v.json", "{", lambda path: read_vdsp(path, Preprocess((1, 1)))),
        r"v\.json' is not JSON: ",
    ),
    "a build without a name": (
        lambda folder: parse_build_config(b"backend: {type: tvm_vacc}", Path("b.yaml")),
        r"b\.yaml: .* is missing; expected the keys ",
    ),
}

VALUES = {
    "a pre-processing of its own": (
        lambda _: process_ops(Preprocess((1, 1), fit="none")),
        "a build YAML cannot express the pre-processing 'none'",
    ),
    "a crop with a resize of its own": (
        lambda folder: _write_module(
            read_contract(
                with_contract(tiny_scrfd, preprocess=Preprocess((64, 64), fit="none"))(folder)
            ),
            folder / "net.onnx",
        ),
        "the pre-processing none with .* cannot be ejected; expected letterbox or stretch",
    ),
    "a recipe of nobody": (
        lambda _: recipe_of("yolo"),
        "there is no recipe 'yolo'; expected one of ",
    ),
    "no images": (
        lambda _: unpack_embeddings([{"path": "a", "error": "x"}]),
        "none of the images can be read; fix those named above",
    ),
    "a batch of none": (
        lambda _: next(stream_batches(None, [], 0)),
        "the batch size must be at least 1, got 0",
    ),
    "a huge input": (
        lambda _: zeros((1 << 20, 1 << 20)),
        r"an input of .* is more than \d+ values; expected an image: export the model again",
    ),
    "an odd size of crops": (
        lambda _: align_face(FACE, np.ones((5, 2)), 100),
        "size of an aligned crop must be a multiple of .*, got 100",
    ),
    "four points": (
        lambda _: similarity_matrix(np.ones((4, 2))),
        r"landmarks must be five finite points \(5, 2\), got ",
    ),
    "a crop outside": (
        lambda _: _crop(FACE, (50, 60), (100, 100)),
        r"a crop of 100x100 at \(50, 60\) does not fit into an image of 112x112",
    ),
    "a kernel of nobody": (
        lambda _: evaluate_detections(predicted(), truth(), kernel="x"),
        "kernel 'x' is not available; choose one of ",
    ),
    "a photo twice": (
        lambda _: evaluate_detections(
            predicted(images=("e/a", "e/a"), starts=np.array([0, 1, 1])), truth()
        ),
        "predictions: image 'e/a' occurs twice; expected each image once",
    ),
    "boxes without scores": (
        lambda _: evaluate_detections(predicted(scores=np.ones(2)), truth()),
        r"predictions: scores must have shape \(1,\), one per box, got \(2,\)",
    ),
    "a level of others": (
        lambda _: evaluate_detections(predicted(), truth(levels={"easy": np.ones(2, bool)})),
        r"ground truth: level 'easy' must be a mask of shape \(1,\), got bool \(2,\)",
    ),
    "outputs of other shapes": (
        lambda _: DriftSum().add(np.zeros(2), np.zeros(3)),
        r"shapes differ: \(2,\) and \(3,\)",
    ),
    "landmarks of others": (
        lambda _: normalized_mean_error(np.ones((1, 5, 2)), np.ones((1, 4, 2)), "AFLW"),
        r"must both have shape \(M, N, 2\), got \(1, 5, 2\) and \(1, 4, 2\)",
    ),
    "a data set of nobody": (
        lambda _: check_normalizer(np.ones((1, 5, 2)), "FOO"),
        "data set 'FOO' is not known; expected one of .*, or two landmarks",
    ),
    "embeddings of nothing": (
        lambda _: k_fold_accuracy(
            np.zeros((4, 2)), np.ones((4, 2)), np.array([1, 0] * 2) > 0, folds=2
        ),
        r"embedding 0 of the .* of the pairs is all zero or not finite \(4 such\): the network's",
    ),
    "labels of others": (
        lambda _: roc_curve(np.ones(3), np.ones(2, bool)),
        r"similarities and labels must both have shape \(N,\), got \(3,\) and \(2,\)",
    ),
    "a fixed batch": (
        lambda folder: export_recogniser(
            changed(
                lambda path: tiny_magface(path),
                lambda model: setattr(
                    model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 100_000
                ),
            )(folder),
            folder / "to.onnx",
            card_id="w600k_mbf",
        ),
        "has a batch of 100000; export it with another",
    ),
    "margins the wrong way round": (
        lambda _: LossSettings(l_margin=0.8, u_margin=0.4),
        r"l_margin 0\.8 and u_margin 0\.4 must be 0 <= l_margin <= u_margin",
    ),
    "two outputs for landmarks": (
        lambda _: pfld.decode(outputs(np.zeros((1, 4)), np.zeros((1, 4)))),
        "expected one output of a PFLD network, got ",
    ),
    "two outputs for a quality": (
        lambda _: sdd_fiqa.decode(outputs(np.zeros((1, 1)), np.zeros((1, 1)))),
        "expected one output of a quality network, got ",
    ),
    "landmarks of NaN": (
        lambda _: decode_maps(PIPNET_MAPS, load_meanface("WFLW", 10)),
        "landmarks are not finite; check the weights and the input",
    ),
    "a mean face of nobody": (
        lambda _: compute_meanface(np.ones((0, 5, 2))),
        r"annotations must have shape \(M, N, 2\), got \(0, 5, 2\)",
    ),
    "a size of no cells": (
        lambda folder: to_raw_heads(
            onnx.load(str(tiny_scrfd(folder / "net.onnx"))), size=(100, 100)
        ),
        r"size 100 100 must be two positive multiples of 32",
    ),
    "labels of no embeddings": (
        lambda _: _check(np.ones(3), np.ones(3), None, str),
        r"embeddings must have shape \(N, D\), identities and references \(N,\), got ",
    ),
    "an embedding of nothing": (
        lambda _: _check(np.zeros((2, 3)), np.arange(2), None, lambda index: f"photo {index}"),
        r"the embedding of photo 0 is all zero or not finite \(2 such\); extract them again",
    ),
    "a rate of all": (
        lambda _: quality_at_fnmr(np.ones(2), np.ones((2, 2), int), np.ones(2), 0.1, 1.0),
        r"a false non-match rate must be from 0 to below 1, got 1",
    ),
    "errors too few to place a threshold": (
        lambda _: quality_at_fnmr(*few_errors(3, 30), 0.05, 0.01),
        r"3 of 30 genuine pairs are rejected at FMR 0\.05, too few to place a threshold; expected",
    ),
    "a fifth of the people who are all errors": (
        lambda _: quality_at_fnmr(*few_errors(12, 40)[:2], np.arange(1040.0), 0.05, 0.1),
        r"without a fifth of the people, to check on them: ",
    ),
    "genuine pairs of too few people": (
        lambda _: quality_at_fnmr(np.ones(9), np.ones((9, 2), int), np.ones(9), 0.1, 0.1),
        r"1 people have genuine pairs; expected at least 5, so that the threshold can be checked",
    ),
    "resamples of people without pairs": (
        lambda _: two_people(1),
        "no resample of people has pairs of both kinds; expected more people, or more --resamples",
    ),
    "areas of different resamples": (
        lambda _: area_ratio(*map(discard_curve, (5, 6))),
        "5 and 6 resamples cannot be compared; expected curves of the same pairs",
    ),
    "folds that are not there": (
        lambda folder: people_in_folds(two_folds(folder), 1, 3),
        r"folds 1 to 3 were requested, '.*pairs.txt' has 1 to 2",
    ),
    "no such threshold": (profile_without, "the profile has no such threshold: too few pairs"),
    "a recipe that is not there": (
        lambda folder: _folder(folder, "yolo"),
        r"contains no recipe face_\*/yolo; expected the repository",
    ),
    "a block without an end": (
        lambda _: render_blocks("<!-- facezoo:begin facts scrfd -->\n", lambda words: ""),
        "the block in line 1 has no ",
    ),
    "an end without a block": (
        lambda _: render_blocks("<!-- facezoo:end -->\n", lambda words: ""),
        "line 1, .*, has no matching comment",
    ),
}
SITUATIONS = {**FILES, **VALUES}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_message_names_the_situation(tmp_path, situation):
    act, message = SITUATIONS[situation]
    with pytest.raises(FaceZooError, match=message):
        act(tmp_path)


# Commands -----------------------------------------------------------------------------------------


def crops(folder):
    """Write faces of two people and small networks; return the folder."""
    rng = np.random.default_rng(3)
    for name in ("anna/1.png", "anna/2.png", "bert/1.png", "bert/2.png"):
        write_image_rgb(folder / "faces" / name, rng.integers(0, 256, (112, 112, 3), np.uint8))
    tiny_scrfd(folder / "detector.onnx")
    tiny_magface(folder / "embedder.onnx")
    tiny_pipnet(folder / "landmarks.onnx")
    (folder / "unreadable").mkdir()
    (folder / "unreadable" / "a.png").write_bytes(b"")
    write_image_rgb(folder / "dark.png", np.zeros((90, 90, 3), np.uint8))
    (folder / "x.json").write_text("[]")
    with_contract(tiny_magface, source_sha256="a" * 64)(folder)
    return folder


RUNS = {
    "a command of one quote": (
        ("bench", "--model", "detector.onnx", "--vamp", "'"),
        '--vamp "\'" is not a valid shell command: No closing quotation',
    ),
    "an engine for a build": (
        ("compile", "build.yaml", "--model", "net.onnx@ort"),
        "--model net.onnx@ort: a build is for every engine; omit what follows @",
    ),
    "a photo without a face": (
        ("doctor", "--model", "embedder.onnx", "--image", "dark.png")
        + ("--detector", "detector.onnx", "--observed", "mine.npz"),
        "dark.png': no face was found to align; give the aligned face itself, 112x112",
    ),
    "a list for a document": (
        ("doctor", "--model", "detector.onnx", "--image", "dark.png", "--observed", "x.json"),
        """ or slices, not str); expected {"faces": [...]}, see --help""",
    ),
    "a ledger of the device": (
        ("evaluate", "scrfd", "--images", "faces", "--gt", ".", "--detector", "detector.onnx")
        + ("--output", "run", "--ledger", "l.json", "--engine", "ort"),
        "--ledger measures in ONNX Runtime on the CPU with the network's own pre-processing; omit",
    ),
    "photos that an evaluation needs": (
        ("evaluate", "scrfd", "--images", "unreadable", "--gt", "truth", "--detector")
        + ("detector.onnx", "--output", "run"),
        "; an evaluation needs every photo: 'unreadable/a.png'",
    ),
    "results to evaluate with a model": (
        ("evaluate", "scrfd", "--pred", "faces", "--gt", ".", "--detector", "detector.onnx"),
        "--detector needs photos and a model: --images DIR",
    ),
    "a detector for landmarks of a file": (
        ("evaluate", "landmarks", "--pred", "x.json", "--gt", ".", "--detector", "d.onnx"),
        "--detector needs a model: --landmarks MODEL",
    ),
    "crops of no detector": (
        ("evaluate", "landmarks", "--landmarks", "landmarks.onnx", "--gt", ".")
        + ("--crop", "detector"),
        "--crop detector needs --detector, an SCRFD",
    ),
    "scores of nothing": (
        ("evaluate", "quality", "--scores", "a=x.txt"),
        "give --embeddings or --images for errors, or --copies for the ranking",
    ),
    "faces that a detector is to find": (
        ("evaluate", "quality", "--scores", "a=x.txt", "--copies", "x.txt")
        + ("--detector", "detector.onnx"),
        "--detector needs --images, the faces that it is to find",
    ),
    "scores without a name": (
        ("evaluate", "quality", "--scores", "x.txt"),
        "--scores 'x.txt' must be NAME=FILE, each name once",
    ),
    "a file that is no graph": (
        ("info", "x.json"),
        "x.json' is not an .onnx file; expected one, or a card's id",
    ),
    "a pipe to write": (
        ("info", "detector.onnx", "--record", "pipe"),
        "pipe' is a device or a pipe; name a file",
    ),
    "photos that cannot be read": (
        ("calibrate", "quality", "--images", "unreadable", "--quality", "embedder.onnx")
        + ("--recipe", "magface", "--output", "q.json"),
        "no image in 'unreadable' can be read; see the lines above",
    ),
    "pairs without faces": (
        ("calibrate", "similarity", "--images", "faces", "--embedder", "embedder.onnx")
        + ("--detector", "detector.onnx", "--score", "1", "--output", "s.json"),
        "no pair is left whose two images have a face; see the lines above",
    ),
    "a threshold of another network": (
        ("match", "dark.png", "dark.png", "--detector", "detector.onnx", "--embedder", "net.onnx"),
        "no threshold was measured for this network under the name of w600k_mbf; give a profile",
    ),
    "a file for a card": (
        ("doctor", "detector.onnx"),
        "'detector.onnx' is a file; give it as --model",
    ),
    "a comparison of nothing": (
        ("compare", "detector.onnx", "detector.onnx", "--images", "unreadable"),
        "none of 1 images can be read; expected at least one",
    ),
}


@pytest.mark.parametrize("situation", RUNS)
def test_a_command_names_the_situation(tmp_path, monkeypatch, run_here, situation):
    monkeypatch.chdir(crops(tmp_path))
    os.mkfifo("pipe")
    Path("build.yaml").write_text(
        "name: x\nfrontend: {type: onnx, checkpoint: detector.onnx, shape: "
        "{input.1: [1, 3, 64, 64]}}\nbackend: {type: tvm_vacc, dtype: fp32}\n"
        "workspace: {path: out}\n"
    )
    Path("x.txt").write_text("anna/1.png 1\n")
    words, message = RUNS[situation]
    code, _, error = run_here(*words)
    assert (code, message in error) == (2, True), error


# Parts that a test replaces -----------------------------------------------------------------------


def test_a_graph_that_gives_another_batch_is_named(tmp_path):
    net = tiny_scrfd(tmp_path / "net.onnx")
    backend = OrtBackend(net, read_contract(net))
    wrong = [np.zeros((1, 2), np.float32)] * len(backend.contract.output_names)
    backend._graph = lambda *_: SimpleNamespace(run=lambda tensor: wrong)
    with pytest.raises(GraphError, match="has a batch of 1 for 2 images; export the model again"):
        backend.run_tensor(np.zeros((2, 3, 64, 64), np.float32), [WHERE] * 2)


def test_a_runtime_that_is_not_there_is_named(tmp_path, monkeypatch):
    net = tiny_scrfd(tmp_path / "net.onnx")

    class OnTheCpu:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    there = list(ort.PROVIDERS.values())
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", OnTheCpu)
    with pytest.raises(
        BackendUnavailable, match=r"was requested, but ONNX Runtime runs on CPU.*; fix"
    ):
        open_session(net, 1, "cuda")
    monkeypatch.setattr(ort, "onnxruntime", None)
    monkeypatch.setattr(ort, "_IMPORT_ERROR", "no module", raising=False)
    with pytest.raises(BackendUnavailable, match=r"'ort' needs the package onnxruntime .*: pip"):
        open_session(net, 1)


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"this needs pandas, which cannot be imported .*: pip"):
        _needed("pandas")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "facezoo.scale", raising=False)
    with pytest.raises(BackendUnavailable, match=r"this needs pyarrow .*; install it with: pip"):
        importlib.import_module("facezoo.scale")


def test_outputs_that_cannot_be_decoded_reject_a_build(tmp_path, monkeypatch):
    net = tiny_scrfd(tmp_path / "net.onnx").read_bytes()
    write_image_rgb(tmp_path / "a.png", FACE)

    def decode(*_):
        raise DecodeError("output 'x' is not finite")

    monkeypatch.setattr("facezoo.compiler.gate.compare_backends", decode)
    gate = Gate([tmp_path / "a.png"], True, GateSettings())
    with pytest.raises(GateError, match=r"outputs cannot be decoded \(output 'x' is.*\); nothing"):
        gate(net, net)


def test_an_output_that_changes_its_shape_is_named():
    model = SimpleNamespace(
        shapes={"x": (2,)}, _call=lambda _: ((0, 0, 0, 0), outputs_of(x=np.zeros((1, 3))))
    )
    with pytest.raises(DecodeError, match=r"'x' has shape \(3,\) per image, but had \(2,\) before"):
        speed._Instances._checked_call(model, [FACE])


def outputs_of(**arrays):
    return RawOutputs(arrays, [WHERE])


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A network, and what a stand-in of trtexec answers for its engine."""
    net = tiny_magface(tmp_path / "net.onnx")
    answers = {}
    monkeypatch.setattr(triton.shutil, "which", lambda name: name)

    def run(words):
        (to,) = [word.partition("=")[2] for word in words if word.startswith("--exportOutput")]
        Path(to).write_text(json.dumps(answers["said"]))

    monkeypatch.setattr(triton, "_run", run)
    return net, answers


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            [{"name": name, "values": [1]} for name in "ab"],
            r"has 2 outputs, .*net",
        ),
        ([{"name": "a"}], r"the output of .*e\.plan' cannot be read \(.*\); expected what trtexec"),
    ],
)
def test_an_engine_of_another_graph_is_named(engine, said, message):
    net, answers = engine
    answers["said"] = said
    with pytest.raises(BackendRunError, match=message):
        triton._compare(net, Path("e.plan"))


def second_output(model):
    model.graph.output.add().CopyFrom(model.graph.output[0])


def foreign_operator(model):
    model.graph.node[0].op_type = "NoSuchOperator"


GRAPHS = {
    "an operator of nobody, folded": (
        lambda folder: _fold(onnx.load(str(changed(tiny_scrfd, foreign_operator)(folder)))),
        "ONNX Runtime cannot fold the graph into ",
    ),
    "an operator of nobody, converted": (
        lambda folder: _prepare(
            onnx.load(
                str(
                    changed(
                        tiny_scrfd,
                        lambda model: (
                            foreign_operator(model),
                            setattr(model.opset_import[0], "version", 9),
                        ),
                    )(folder)
                )
            )
        ),
        r"cannot be converted from opset 9 to \d+, which int8 needs \(.*\); export it with opset",
    ),
    "two outputs of a recogniser": (
        lambda folder: export_recogniser(
            changed(tiny_magface, second_output)(folder),
            folder / "to.onnx",
            card_id="w600k_mbf",
        ),
        r"net\.onnx' has 1 inputs and 2 outputs; expected a recognition network with one of each",
    ),
    "rows of another number": (
        lambda folder: magface._Released.rows(
            SimpleNamespace(channels_last=False, is_half=False, batch=0, input="x", _model="m"),
            np.zeros((2, 3, 4, 4)),
        ),
        r"the graph gives \(3, 4\) for 1 images; expected one row per image",
    ),
    "an embedding of another length": (
        lambda _: FaceEmbedder._decode(
            SimpleNamespace(
                contract=SimpleNamespace(card_id="w600k_mbf", source_sha256=""),
            ),
            outputs_of(embedding=np.ones((1, 64), np.float32)),
        ),
        "an embedding has 64 numbers, those of w600k_mbf have 512; export the model again",
    ),
    "few convolutions": (
        lambda folder: _backbone_of(onnx.load(str(tiny_scrfd(folder / "net.onnx")))),
        r"this is not a PIPNet with a known backbone: \d+ convolutions; expected one of ",
    ),
    "detections that were changed": (
        lambda _: _Packed.unpack({"path": "e/a.jpg", "rows": "!"}),
        r"the entry of 'e/a\.jpg' was changed \(.*\); use --overwrite",
    ),
    "a tensor of another size": (
        lambda _: diagnose_tensor(SETUP, np.zeros((3, 9, 9))),
        r"the observed tensor has shape \(1, 3, 9, 9\), the network expects .*; give what your",
    ),
    "points of another number": (
        lambda _: diagnose_points(SHARES, np.zeros((5, 2))),
        r"landmarks must have shape \(98, 2\), got \(5, 2\); give those of one face",
    ),
    "outputs of another size": (
        lambda _: _Outputs(SETUP, {"a": np.zeros(3)}, {"a": np.zeros(4)}),
        "output 'a' has 3 values, the network gives 4 for one image; give its output",
    ),
}
SETUP = ReferenceSetup(dict, Preprocess((64, 64)), FACE)
SHARES = dataclasses.replace(SETUP, run=lambda tensor: {"points": np.zeros((1, 196), np.float32)})


@pytest.mark.parametrize("situation", GRAPHS)
def test_the_message_names_what_a_network_gives(tmp_path, monkeypatch, situation):
    monkeypatch.setattr(magface, "run_graph", lambda *_: {"y": np.zeros((3, 4))})
    act, message = GRAPHS[situation]
    with pytest.raises(FaceZooError, match=message):
        act(tmp_path)


# What needs PyTorch or pyarrow --------------------------------------------------------------------


@pytest.fixture
def graph_export():
    return pytest.importorskip("facezoo.graphs.export", exc_type=ImportError)


@pytest.mark.torch
def test_checkpoints_and_graphs_of_others_are_named(tmp_path, graph_export):
    import torch

    export, path = graph_export, tmp_path / "net.pth"
    with pytest.raises(FaceZooError, match=r"net\.pth' does not exist; expected a \.pth file"):
        export.read_checkpoint(path)
    torch.save({"weight": torch.tensor([float("nan")])}, path)
    with pytest.raises(FaceZooError, match=r"'weight' has a value that is not finite, as after a"):
        export.read_checkpoint(path)
    net = tiny_scrfd(tmp_path / "net.onnx")
    model = onnx.load(str(net))
    count = sum(node.op_type == "Conv" for node in model.graph.node)
    layers = [torch.nn.Conv2d(3, 3, 1) for _ in range(count)]
    with pytest.raises(FaceZooError, match=r"of the graph has weights of shape .*; choose the var"):
        export.load_onnx(torch.nn.Sequential(*layers), model, (64, 64))
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    found = [array + 1 for array in graph_export.run_graph(model, {"input.1": tensor}).values()]
    with pytest.raises(FaceZooError, match="of its root mean square between torch and ONNX Runtim"):
        export.compare_with_graph(found, model, tensor)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("magface", "MagFace has no variant 'x'; expected one of "),
        ("scrfd", "'x' is not an SCRFD variant; choose one of "),
        ("sdd_fiqa", "SDD-FIQA has no variant 'x'; expected one of "),
    ],
)
def test_a_variant_of_nobody_is_named(graph_export, model, message):
    network = importlib.import_module(f"facezoo.models.{model}.network")
    with pytest.raises(FaceZooError, match=message):
        network.build("x")


@pytest.mark.torch
def test_what_does_not_fit_a_training_is_named(graph_export):
    import torch
    from facezoo.models.magface.loss import MagHead
    from facezoo.models.scrfd.network import build

    with pytest.raises(FaceZooError, match="2 classes cannot be sliced for 4 processes"):
        MagHead(8, 2, LossSettings(), SimpleNamespace(rank=0, world=4))
    with pytest.raises(FaceZooError, match="is not divisible into cells of 32 pixels; pad height"):
        build("scrfd_500m_bnkps")(torch.zeros(1, 3, 60, 60))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda m, _: list(m._of_store("s3://b?x=1", below=False)),
            "options behind .* can be given",
        ),
        (lambda m, _: m._checked("a\nb"), "is not a path or an address"),
        (
            lambda m, _: m._checked("caf\udce9.png"),
            "is not UTF-8, so results cannot list it; rename",
        ),
        (
            lambda m, pa: m._check_column("t.parquet", "path", pa.schema([("path", pa.int32())])),
            r"t\.parquet': column 'path' is of type int32; expected texts",
        ),
    ],
)
def test_what_bulk_scoring_cannot_list_is_named(read, message):
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(FaceZooError, match=message):
        read(importlib.import_module("facezoo.scale.manifest"), pa)


def test_tables_and_settings_of_others_are_named(tmp_path, run_here):
    pytest.importorskip("pyarrow")
    from facezoo.scale.tables import open_table

    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(FaceZooError, match=r"t\.parquet' cannot be read as Parquet \("):
        open_table(tmp_path / "t.parquet", "x")
    write_image_rgb(tmp_path / "photos" / "a.png", FACE)
    run = str(tmp_path / "run")
    assert run_here("score", "manifest", tmp_path / "photos", "--to", run)[0] == 0
    code, _, error = run_here("score", "merge", run, "-o", tmp_path / "to")
    assert code == 2 and "which settings? --settings is one of none; run facezoo score run" in error
    code, _, error = run_here("score", "status", run, "--settings", "abc")
    assert code == 2 and "has no settings 'abc'; facezoo score status lists" in error


# Rare ones ----------------------------------------------------------------------------------------


def raising(*_, **__):
    raise RuntimeError("no shape")


def calibrated(ops, shape="[1, 3, 8, 8]"):
    """Read a photo of 9 x 9 with the operations of a build YAML."""
    text = (
        f"name: x\nfrontend: {{type: onnx, checkpoint: x.onnx, shape: {{x: {shape}}}}}\n"
        "backend: {type: tvm_vacc, dtype: int8}\n"
        f"dataset: {{path: ., sampler: {{suffix: png, get_data_num: 1}}, process_ops: {ops}}}\n"
        "workspace: {path: out}\n"
    )

    def act(folder):
        write_image_rgb(folder / "a.png", np.zeros((9, 9, 3), np.uint8))
        return FileLoader(parse_build_config(text.encode(), Path("b.yaml")))(folder / "a.png")

    return act


RARE = {
    "operations for another size": (
        calibrated("[{type: DecodeImage}, {type: ToTensor}]"),
        r"a\.png' becomes .*, frontend\.shape says .*; correct dataset\.process_ops",
    ),
    "operations in another order": (
        calibrated("[{type: DecodeImage}, {type: ToTensor}, {type: Resize, size: [8, 8]}]"),
        r"Resize of dataset\.process_ops failed on .*a\.png' \(.*\); correct its arguments or",
    ),
    "a ledger without a detector": (
        lambda _: write_protocol_ledger(
            SimpleNamespace(**dict.fromkeys(LEDGER_IGNORES), flip="none", detector=None), None, ()
        ),
        "--ledger needs --detector",
    ),
    "no network": (
        lambda folder: embedder_source(
            SimpleNamespace(onnx=None, model_prefix_path=None, resume=None), folder
        ),
        "which network[?] give --resume CKPT, --onnx FILE or --model_prefix_path",
    ),
    "landmarks that change with the batch": (
        lambda _: pipnet_graph._compare(None, None, {"cls": "c"}, 64, 2),
        "output 'c' changes with the batch size; give --batch 1, as in the file",
    ),
    "a graph without shapes": (
        lambda folder: recognise_heads(onnx.load(str(tiny_scrfd(folder / "net.onnx")))),
        "the graph's shapes cannot be inferred: no shape",
    ),
    "outputs of other names": (
        written(
            "output_000000.npz",
            b"",
            lambda path: (
                np.savez(path, other=np.zeros(3)),
                OutputFolder._read(SimpleNamespace(paths=[path], _sha256=()), 0),
            ),
        ),
        r"output_000000\.npz' contains \['other'\]; expected output_0, output_1, \.\.\.",
    ),
}


@pytest.mark.parametrize("situation", RARE)
def test_a_rare_message_names_its_situation(tmp_path, monkeypatch, situation):
    varying = iter([{"cls": np.zeros((2, 1))}, {"c": np.ones((1, 1))}])
    act, message = RARE[situation]
    if "batch" in situation:
        image = SimpleNamespace(graph=SimpleNamespace(input=[SimpleNamespace(name="x")]))
        monkeypatch.setattr(pipnet_graph, "run_graph", lambda *_: next(varying))
        act = lambda _: pipnet_graph._compare(image, image, {"cls": "c"}, 64, 2)  # noqa: E731
    if "shapes" in situation:
        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", raising)
    with pytest.raises(FaceZooError, match=message):
        act(tmp_path)


def test_a_graph_that_the_quantiser_rejects_is_named(tmp_path, monkeypatch):
    model = onnx.load(str(tiny_scrfd(tmp_path / "net.onnx")))
    feeds = {"input.1": np.ones((1, 3, 64, 64), np.float32)}
    monkeypatch.setattr(quantize.QDQQuantizer, "quantize_model", raising)
    with pytest.raises(GraphError, match=r"quantiser rejects the graph \(no shape\); exclude"):
        quantize.quantize_graph(model, Quantize(), [feeds])


def test_a_ledger_of_no_detector_is_named(tmp_path):
    with pytest.raises(FaceZooError, match="a ledger needs a detector; give --detector"):
        recognition_ledger(
            *(None, [], tmp_path),
            **dict.fromkeys(("embedder", "builds", "how", "progress", "say")),
            detectors=[],
        )


def test_files_that_differ_from_their_cards_are_an_error(tmp_path, run_here):
    (tmp_path / "face_detection").mkdir()
    code, _, error = run_here("render", "--check", "--root", tmp_path)
    assert code == 3 and " differ from their cards; run: make recipes" in error


def test_what_openvino_cannot_load_is_named(tmp_path):
    pytest.importorskip("openvino")
    net = changed(tiny_scrfd, foreign_operator)(tmp_path)
    with pytest.raises(FaceZooError, match=r"net\.onnx' cannot be loaded by OpenVINO: "):
        open_backend(net, RuntimeOptions(engine="openvino"))
