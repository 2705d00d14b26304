"""Time the whole chain of `facezoo predict`, per stage and against the loop of single faces.

Two measurements. The chain on one core against the sum of its stages, per photo: detector,
alignment, looks (size, sharpness, turn, cut) and embedding of every face, and landmarks and
quality if their models are given. Then faces per second by how many faces the photos have, photo by
photo on all cores and as a stream, against "one by one": a stream of photos, one per core, in which
every face is aligned, measured and embedded on its own; once with the network as it is published
and once with what ONNX Runtime is given in place of its PRelu.

What is compared takes turns on the same photos in one process; a ratio is the median over the
rounds.

  python tests/benchmarks/bench_predict.py --photos photos --json predict.json
"""

import argparse
import json
import statistics
import time
from functools import partial
from itertools import chain
from pathlib import Path
from unittest import mock

import facezoo
import numpy as np
from facezoo import FaceEmbedder, FaceQuality, LandmarkDetector, load
from facezoo.backends import ort
from facezoo.image.align import align_face
from facezoo.image.appearance import measure_face
from facezoo.image.files import find_images, read_image_rgb
from facezoo.machine import describe_machine
from facezoo.models.pipnet.crop import DetectorCrop
from facezoo.pipeline.acceptance import Acceptance
from facezoo.pipeline.photo import Predictor

CROWDS = {"1 face": (1, 1), "2 to 9 faces": (2, 9), "10 faces and more": (10, 10**6)}
CLOSE_TO = 1e-6  # Of embeddings of length 1.


def timed(function):
    started = time.perf_counter()
    found = function()
    return found, time.perf_counter() - started


def run_stages(model, image):
    """Return the seconds of each stage on its own, for the faces of one photo."""
    (faces,), detector = timed(lambda: model.detector.batch([image], shared=True))
    seconds = {"detector": detector}
    crops, seconds["align"] = timed(lambda: [align_face(image, m) for m in faces.landmarks_xy])
    rows = list(zip(faces.boxes_xyxy.tolist(), faces.landmarks_xy, crops))
    _, seconds["appearance"] = timed(lambda: [measure_face(image, *row) for row in rows])
    cuts = [DetectorCrop.of(box, faces.image_hw).cut(image) for box in faces.boxes_xyxy.tolist()]
    pictures = {"landmarks": cuts, "quality": crops, "embedder": crops}
    for name, stage in model.stages.items():
        if name in pictures:
            _, seconds[name] = timed(lambda: one_by_one(stage, pictures[name]))  # noqa: B023
    return seconds


def one_by_one(stage, pictures):
    return [stage.batch([picture], shared=True)[0] for picture in pictures]


def measure_stages(model, images, rounds):
    ratios, shares = [], []
    for image in images:
        model.batch([image], shared=True), run_stages(model, image)
    for _ in range(rounds):
        stages, whole = {}, 0.0
        for image in images:
            for name, seconds in run_stages(model, image).items():
                stages[name] = stages.get(name, 0.0) + seconds
            whole += timed(lambda image=image: model.batch([image], shared=True))[1]
        ratios.append(whole / sum(stages.values()))
        shares.append(stages)
    per_photo = {
        name: round(1e3 * statistics.median(one[name] for one in shares) / len(images), 2)
        for name in shares[0]
    }
    return {
        "photos": len(images),
        "faces": sum(len(model(image)) for image in images),
        "rounds": rounds,
        "stages_ms_per_photo": per_photo,
        "chain_over_sum_of_stages": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def load_as_published(name):
    """Load an embedder whose PRelu stays as it is."""
    with mock.patch.object(ort, "BLOCKED_MACHINES", ()):
        embedder = load(name, kind=facezoo.FaceEmbedder)
        # The network for one core is loaded when it is first asked for.
        embedder.batch([np.zeros((112, 112, 3), np.uint8)], shared=True)
    return embedder


def plain_stream(detector, embedder, paths):
    """Do what the chain does a face at a time, a photo per core."""

    def one(_, path):
        image = read_image_rgb(path)
        (faces,) = detector.batch([image], shared=True)
        vectors = []
        for box, marks in zip(faces.boxes_xyxy.tolist(), faces.landmarks_xy):
            crop = align_face(image, marks)
            measure_face(image, box, marks, crop)
            vectors.append(embedder.batch([crop], shared=True)[0].unit)
        return vectors

    return list(detector.backend.map(one, paths))


def units_of(photo):
    return [face.vector / np.linalg.norm(face.vector) for face in photo.faces]


def measure_crowds(model, published, paths, rounds):
    """Return faces per second by the number of faces, and how many times as fast the chain is."""
    faces_of = {photo.source: len(photo) for photo in model.stream(paths)}
    plain = {"one by one, as published": published, "one by one": model.embedder}
    table = {}
    for crowd, (fewest, most) in CROWDS.items():
        group = [path for path in paths if fewest <= faces_of[path] <= most]
        if not group:
            continue
        ways = {
            way: partial(plain_stream, model.detector, one, group) for way, one in plain.items()
        }
        ways["photo by photo"] = lambda g=group: [units_of(model(read_image_rgb(p))) for p in g]
        ways["stream"] = lambda g=group: [units_of(photo) for photo in model.stream(g)]
        found = {way: list(chain(*run())) for way, run in ways.items()}
        pairs = [zip(found[way], found["one by one, as published"]) for way in ways]
        worst = max(float(np.abs(a - b).max()) for a, b in chain(*pairs))
        assert worst <= CLOSE_TO, f"{crowd}: embeddings differ by {worst:g}"
        seconds = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                seconds[way].append(timed(run)[1])
        faces = len(found["stream"])
        table[crowd] = {"photos": len(group), "faces": faces, "embeddings differ by": worst}
        for way, values in seconds.items():
            row = {"faces/s": round(faces / statistics.median(values), 2)}
            for other in () if way in plain else plain:
                ratios = np.array(seconds[other]) / np.array(values)
                spread = [round(float(end), 3) for end in (ratios.min(), ratios.max())]
                row[f"over {other}"] = {
                    "times": round(float(np.median(ratios)), 3),
                    "range": spread,
                }
            table[crowd][way] = row
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--detector", default="scrfd_500m_bnkps")
    parser.add_argument("--embedder", default="w600k_mbf")
    parser.add_argument("--landmarks", help="PIPNet")
    parser.add_argument("--quality", help="SDD-FIQA")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    kinds = {"landmarks": LandmarkDetector, "quality": FaceQuality, "embedder": FaceEmbedder}
    stages = {
        name: load(getattr(args, name), kind=kind)
        for name, kind in kinds.items()
        if getattr(args, name)
    }
    detector = load(args.detector, kind=facezoo.FaceDetector)
    paths = find_images(args.photos)
    with Predictor(detector, acceptance=Acceptance(embed_refused=True), **stages) as model:
        result = measure_stages(model, [read_image_rgb(path) for path in paths], args.rounds)
        bare = Predictor(detector, embedder=stages["embedder"], acceptance=model.acceptance)
        result["crowds"] = measure_crowds(
            bare, load_as_published(args.embedder), paths, args.rounds
        )
    result["machine"] = describe_machine()
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
