"""Each message with the situation that it names; tests of the parts have the others."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from facezoo.arrays import read_arrays
from facezoo.artifact import read_artifact
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.backends.ort import open_session
from facezoo.card import Preprocess
from facezoo.cli.render import process_ops
from facezoo.compiler.advice import find_candidates
from facezoo.contract import Contract, read_contract
from facezoo.datasets.face_sets import check_sets, read_set, unpack_sets
from facezoo.datasets.image_list import read_lines
from facezoo.datasets.protocols import locate_photos, read_protocol
from facezoo.datasets.recordio import RecordFile
from facezoo.datasets.wflw import read_rectangles
from facezoo.datasets.widerface import read_ground_truth, read_predictions, unpack_photos
from facezoo.deploy.eject import _write_module, eject
from facezoo.deploy.recipes import recipe_of
from facezoo.doctor.checks import read_model_file
from facezoo.errors import FaceZooError
from facezoo.evaluation.embeddings import unpack_embeddings
from facezoo.evaluation.features import stream_batches
from facezoo.evaluation.landmarks import evaluate_results
from facezoo.graphs.info import zeros
from facezoo.image.align import align_face, similarity_matrix
from facezoo.image.files import find_images, read_image_rgb, write_image_rgb
from facezoo.image.resize import _crop
from facezoo.metrics.detection import GroundTruth, Predictions, evaluate_detections
from facezoo.metrics.drift import DriftSum
from facezoo.metrics.landmarks import check_normalizer, normalized_mean_error
from facezoo.metrics.verification import k_fold_accuracy, roc_curve
from facezoo.models.magface.faces import read_face_pairs
from facezoo.models.magface.graph import export_released as export_recogniser
from facezoo.models.magface.settings import LossSettings
from facezoo.models.pfld import decode as pfld
from facezoo.models.pipnet.decode import compute_meanface, decode_maps, load_meanface, read_meanface
from facezoo.models.scrfd.graph import to_raw_heads
from facezoo.models.sdd_fiqa import decode as sdd_fiqa
from facezoo.models.sdd_fiqa.pseudo_labels import _check
from facezoo.profiles.quality import quality_at_fnmr
from facezoo.profiles.similarity import SimilarityPoint, SimilarityProfile
from facezoo.reports.numerics import read_counts, read_numerics
from facezoo.reports.readme import _file, _ledger, render_blocks
from facezoo.results import Placement, RawOutputs
from facezoo.testing import tiny_magface, tiny_scrfd
from facezoo.vacc.build_config import parse_build_config
from facezoo.vacc.npz import INPUT_KEY, read_datalist, read_input
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
        import dataclasses

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
    (folder / "pairs.txt").write_text("2\t1\n" + "anna\t1\t2\nanna\t1\tbert\t1\n" * 2)
    return locate_photos(read_protocol(folder / "pairs.txt"), folder / ("none" if photos else "."))


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
    "a pipe for a photo": (special_file, "pipe' is no image or folder of images, but a special"),
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
        r"the embedding of photo 0 is all zero or not finite \(2 such\); ",
    ),
    "a rate of all": (
        lambda _: quality_at_fnmr(np.ones(2), np.ones(2, bool), np.ones(2), 0.1, 1.0),
        r"a false non-match rate must be from 0 to below 1, got 1",
    ),
    "no such threshold": (profile_without, "the profile has no such threshold: too few pairs"),
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
