"""Time the whole chain of `facezoo predict` against the sum of its stages, per photo.

Detector, alignment, appearance (size, sharpness, yaw, truncation) and embedding of every face, and
landmarks and quality if their models are given. Chain and stages take turns on the same photo in
one process; the ratio is the median over the rounds.

  python tests/benchmarks/bench_predict.py --photos photos --json predict.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from facezoo import (
    FaceDetector,
    FaceEmbedder,
    FaceQuality,
    LandmarkDetector,
    RuntimeOptions,
    load,
)
from facezoo.image.align import align_face
from facezoo.image.appearance import measure_face
from facezoo.image.files import find_images, read_image_rgb
from facezoo.machine import describe_machine
from facezoo.pipeline.acceptance import Acceptance
from facezoo.pipeline.photo import FacePredictor


def timed(function):
    started = time.perf_counter()
    found = function()
    return found, time.perf_counter() - started


def run_stages(model, image):
    """Return the seconds of each stage on its own, for the faces of one photo."""
    faces, detector = timed(lambda: model.detector(image))
    seconds = {"detector": detector}
    crops, seconds["align"] = timed(lambda: [align_face(image, m) for m in faces.landmarks_xy])
    rows = list(zip(faces.boxes_xyxy.tolist(), faces.landmarks_xy, crops))
    _, seconds["appearance"] = timed(lambda: [measure_face(image, *row) for row in rows])
    if model.landmarks is not None:
        _, seconds["landmarks"] = timed(lambda: model.landmarks.on_faces(image, faces))
    for name, stage in (("quality", model.quality), ("embedder", model.embedder)):
        if stage is not None:
            _, seconds[name] = timed(lambda stage=stage: [stage(crop) for crop in crops])
    return seconds


def measure(model, images, rounds):
    ratios, shares = [], []
    for image in images:
        model(image), run_stages(model, image)
    for _ in range(rounds):
        stages, chain = {}, 0.0
        for image in images:
            for name, seconds in run_stages(model, image).items():
                stages[name] = stages.get(name, 0.0) + seconds
            chain += timed(lambda image=image: model(image))[1]
        ratios.append(chain / sum(stages.values()))
        shares.append(stages)
    per_photo = {
        name: round(1e3 * statistics.median(one[name] for one in shares) / len(images), 2)
        for name in shares[0]
    }
    return {
        "photos": len(images),
        "faces": sum(len(model(image).faces) for image in images),
        "rounds": rounds,
        "stages_ms_per_photo": per_photo,
        "chain_over_sum_of_stages": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "machine": describe_machine(),
    }


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
        name: load(getattr(args, name), kind=kind, runtime=RuntimeOptions(threads=1))
        for name, kind in {"detector": FaceDetector, **kinds}.items()
        if getattr(args, name)
    }
    with FacePredictor(**stages, acceptance=Acceptance(embed_refused=True)) as model:
        images = [read_image_rgb(path) for path in find_images(args.photos)]
        result = measure(model, images, args.rounds)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
