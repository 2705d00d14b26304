"""A bulk run for tests: photos, small networks, a manifest, and what the results must be."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from facezoo.cli.main import main as facezoo
from facezoo.cli.options import make_parser, run_command
from facezoo.image.files import write_image_rgb
from facezoo.machine import limited_cores
from facezoo.pipeline.acceptance import Acceptance
from facezoo.pipeline.load import load
from facezoo.pipeline.photo import Predictor
from facezoo.profiles.appearance import AppearanceLimits
from facezoo.scale.engine import Engine, score_run
from facezoo.scale.manifest import Cut, Sources, find_photos, write_manifest
from facezoo.scale.scorer import BulkJob
from facezoo.scale.tables import columns_of
from facezoo.scale.work import Scores
from facezoo.testing import tiny_magface, tiny_scrfd
from planted import in_job

STAGES = ("--detector", "detector.onnx", "--embedder", "embedder.onnx", "--engine", "ort")
LIMITS = ("--min-size", "0", "--min-sharpness", "0", "--max-yaw", "9", "--max-truncation", "1")


def write_photos(folder, count, marks=()):
    """Write PNGs with faces for the tiny networks; ``marks`` end the files of some of them."""
    rng = np.random.default_rng(7)
    for index in range(count):
        image = rng.integers(0, 60, (70, 80 + index % 7, 3), np.uint8)
        left = 9 * index % 50
        image[20:45, left : left + 25] = 250
        path = folder / f"{index % 3}" / f"{index:03d}.png"
        write_image_rgb(path, image)
        if index in dict(marks):
            with path.open("ab") as file:
                file.write(dict(marks)[index])


def make_run(folder, count=12, per_shard=4, marks=()):
    """Write photos, networks and a manifest; return the run's folder."""
    write_photos(folder / "photos", count, marks)
    tiny_scrfd(folder / "detector.onnx")
    tiny_magface(folder / "embedder.onnx")
    return write_run(folder, per_shard)


def write_run(folder, per_shard=4, name="run"):
    sources = Sources([str(folder / "photos")])
    write_manifest(folder / name, sources.root, find_photos(sources), Cut(None, per_shard))
    return folder / name


def make_job(run, seconds=60.0, score=None):
    """Return the scores and the job of a run with the networks beside it."""
    options = {} if score is None else {"score": score}
    limits = Acceptance(AppearanceLimits(0.0, 0.0, 9.0, 1.0), ())
    detector = load(run.parent / "detector.onnx", engine="ort", threads=1, **options)
    embedder = load(run.parent / "embedder.onnx", engine="ort", threads=1)
    with Predictor(detector, embedder=embedder, acceptance=limits) as model:
        scores = Scores.create(run, model.settings(), columns_of(model))
        return scores, BulkJob(run, scores.identity, pickle.dumps(model), seconds)


def predicted(folder):
    """Return the tables that predict writes for the same photos."""
    out = folder / "predicted"
    shutil.rmtree(out, ignore_errors=True)
    words = [str(folder / word) if word.endswith(".onnx") else word for word in STAGES]
    command = ["predict", str(folder / "photos"), "--output", str(out), "--parquet", "--quiet"]
    facezoo([*command, *words, *LIMITS])
    return tables(out)


def tables(folder):
    return [(folder / name).read_bytes() for name in ("faces.parquet", "photos.parquet")]


def parts(run):
    """Return the bytes of all parts, by their path below the run."""
    found = (path for table in ("faces", "photos") for path in (run / table).rglob("*.parquet"))
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


def receipts(run):
    return [json.loads(path.read_text()) for path in sorted(run.glob("receipts/*/*.json"))]


def start(run, engine, seconds=60.0):
    """Do what ``facezoo score run`` does, with the faulty decoder; return the work."""
    _, job = make_job(run, seconds)
    name, _, address = engine.partition(":")
    with limited_cores(2):
        return score_run(in_job(job, run.parent / "decoded"), Engine(name, address))


def main():
    """Be the command, as a process that can be killed."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("on")
    return run_command(lambda args: start(args.run, args.on) and 0, parser)


if __name__ == "__main__":
    raise SystemExit(main())
