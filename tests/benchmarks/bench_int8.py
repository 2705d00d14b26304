"""Int8 against fp32: time, size, five folds of photos, and embeddings.

In each of five folds a fifth of the photos is held out, the rest is calibrated on. Crops for the
embedding network are cut from the same photos, every second one is held out. Times are medians of
networks run turn by turn on one tensor; s8/s8 are the types that are not chosen on x86.

  python tests/benchmarks/bench_int8.py photos/ --json int8.json
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from facezoo import weights
from facezoo.backends.openvino import OpenVinoBackend
from facezoo.backends.ort import OrtBackend
from facezoo.cli.render import render_build
from facezoo.compiler.build import compile_model, prepare_source
from facezoo.compiler.calibration import open_calibration
from facezoo.compiler.quantize import Arithmetic, calibrate, excluded_layers, insert_qdq
from facezoo.contract import Contract
from facezoo.evaluation.drift import compare_backends, time_in_turns
from facezoo.image.align import align_face
from facezoo.image.files import find_images, read_image_rgb, write_image_rgb
from facezoo.machine import describe_machine
from facezoo.models import find_card
from facezoo.models.scrfd.graph import export_released
from facezoo.pipeline.load import load
from facezoo.vacc.build_config import Sampler, parse_build_config

DETECTORS = ("scrfd_2.5g_bnkps", "scrfd_500m_bnkps")
EMBEDDER = "w600k_mbf"
# Layers and mode by `facezoo sensitivity`; a face fills its crop, so rare values may be cut.
EMBEDDER_QUANTIZE = {"calibrate_mode": "mse", "skip_conv_layers": [0, 1]}
S8S8 = Arithmetic("int8", "int8", False, "for comparison")
FOLDS = 5
SMALLEST_FACE = 24  # pixels


class Network:
    """A network of the zoo, built in any dtype from pictures of a folder."""

    def __init__(self, name, folder, released=None, quantize=None):
        released = released or weights.fetch(name)
        self.card = find_card(name)
        if quantize:
            self.card = dataclasses.replace(self.card, quantize=quantize)
        self.contract = Contract.from_card(self.card)
        self.folder = folder
        self.onnx = folder / f"{name}.onnx"
        if self.card.model == "scrfd":
            export_released(released, self.onnx)
        else:
            model = onnx.load(str(released))
            onnx.helper.set_model_props(model, self.contract.to_metadata())
            onnx.save(model, str(self.onnx))

    def config(self, dtype, pictures):
        text = render_build(self.card, self.card.id)
        config = parse_build_config(text.encode(), Path("bench.yaml"))
        dataset = dataclasses.replace(
            config.dataset, path=pictures, sampler=Sampler(None, len(find_images(pictures)))
        )
        return dataclasses.replace(
            config,
            name=f"{self.card.id}_{dtype}",
            frontend=dataclasses.replace(config.frontend, checkpoint=self.onnx),
            backend=dataclasses.replace(config.backend, dtype=dtype),
            dataset=dataset,
            workspace=dataclasses.replace(config.workspace, path=self.folder),
        )

    def build(self, dtype, pictures, arithmetic="auto"):
        return compile_model(self.config(dtype, pictures), arithmetic=arithmetic)

    def build_s8s8(self, pictures):
        config = self.config("int8", pictures)
        settings = config.backend.quantize
        source = prepare_source(config)
        found = calibrate(source.folded, settings, open_calibration(config, self.card.preprocess))
        excluded = excluded_layers(found.layers, settings, "bench")
        path = self.folder / f"{self.card.id}_s8s8.onnx"
        onnx.save(insert_qdq(found, excluded, S8S8, settings.quantize_per_channel), str(path))
        return path


def lay_out(folder, files):
    """Copy pictures into a folder of their own."""
    folder.mkdir(parents=True)
    for path in files:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def measure_times(network, pictures, threads, rounds):
    fp32, int8 = (network.build(dtype, pictures) for dtype in ("fp32", "int8"))
    s8s8 = network.build_s8s8(pictures)
    contract = network.contract
    backends = {
        "fp32": OrtBackend(fp32.model, contract, threads=threads),
        "int8": OrtBackend(int8.model, contract, half_input=True, threads=threads),
        "int8, s8/s8": OrtBackend(s8s8, contract, threads=threads),
        "fp32, OpenVINO": OpenVinoBackend(fp32.model, contract, threads=threads),
        "int8, OpenVINO": OpenVinoBackend(int8.model, contract, half_input=True, threads=threads),
    }
    image = np.random.default_rng(0).integers(0, 256, (*contract.preprocess.input_hw, 3), np.uint8)
    calls = {}
    for name, backend in backends.items():
        prepared = backend.prepare([image])
        calls[name] = lambda backend=backend, prepared=prepared: backend.run_tensor(*prepared)
    found = time_in_turns(calls, rounds)
    for backend in backends.values():
        backend.close()
    return {
        "arithmetic": int8.build.arithmetic,
        "megabytes": {a.dtype: round(a.model.stat().st_size / 1e6, 2) for a in (fp32, int8)},
        "milliseconds": {name: round(value, 2) for name, value in found.items()},
        "ratio": round(found["int8"] / found["fp32"], 3),
    }


def measure_folds(network, photos, folder):
    rows = []
    for fold in range(FOLDS):
        held = photos[fold::FOLDS]
        pictures = lay_out(folder / f"fold{fold}", [p for p in photos if p not in held])
        reference = OrtBackend(network.onnx, network.contract)
        built = network.build("int8", pictures)
        other = OrtBackend(built.model, network.contract, half_input=True)
        with reference, other:
            task = compare_backends(reference, other, held).task
        limits = network.card.gate_limits
        row = {name: task[name] for name in ("faces", "missed", "extra", "mean_iou", "mean_score")}
        refused = [
            name
            for name in ("missed_share", "extra_share", "mean_score")
            if task[name] > limits[name]
        ]
        refused += ["mean_iou"] * (task["mean_iou"] < limits["mean_iou"])
        rows.append({"photos": len(held), **row, "refused_for": refused})
    return rows


def cut_crops(network, photos, folder):
    with load(network.onnx) as detector:
        for photo in photos:
            image = read_image_rgb(photo)
            faces = detector(image)
            for index, (box, points) in enumerate(zip(faces.boxes_xyxy, faces.landmarks_xy)):
                if min(box[2:] - box[:2]) >= SMALLEST_FACE:
                    path = folder / f"{photo.stem}_{index:02d}.png"
                    write_image_rgb(path, align_face(image, points))
    return find_images(folder)


def measure_embeddings(network, crops, folder):
    held = crops[1::2]
    reference = OrtBackend(network.onnx, network.contract)
    built = network.build("int8", lay_out(folder / "crops_calibration", crops[::2]))
    with reference, OrtBackend(built.model, network.contract, half_input=True) as other:
        task = compare_backends(reference, other, held).task
    return {"crops": len(held), "arithmetic": built.build.arithmetic, **task}


def measure(photos, large, threads, rounds):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = lay_out(folder / "photos", photos)
        detectors = [Network(*entry) for entry in zip(DETECTORS, (folder, folder), (large, None))]
        embedder = Network(EMBEDDER, folder, quantize=EMBEDDER_QUANTIZE)
        crops = cut_crops(detectors[0], photos, folder / "crops")
        return {
            "machine": describe_machine(),
            "photos": len(photos),
            "threads": threads,
            "rounds": rounds,
            "times": {
                **{n.card.id: measure_times(n, pictures, threads, rounds) for n in detectors},
                EMBEDDER: measure_times(embedder, folder / "crops", threads, rounds),
            },
            "folds": {DETECTORS[1]: measure_folds(detectors[1], photos, folder / DETECTORS[1])},
            "embeddings": measure_embeddings(embedder, crops, folder),
        }


def render(result):
    """Write what was measured as text."""
    runs = f"medians of {result['rounds']} runs in turns, {result['threads']} threads"
    lines = [f"{result['machine']['cpu']}; ms for one image, {runs}"]
    for name, entry in result["times"].items():
        size = entry["megabytes"]
        lines += ["", f"{name}: {size['fp32']} MB in fp32, {size['int8']} MB in int8"]
        lines += [f"  {entry['arithmetic']}"]
        times = entry["milliseconds"]
        lines += [
            f"  {key:16}{value:>8.2f} ms  {value / times['fp32']:.2f}x"
            for key, value in times.items()
        ]
        if entry["ratio"] >= 1:
            lines.append("  int8 is not faster here; the faster build is fp32")
    for name, rows in result["folds"].items():
        lines += ["", f"{name}, {result['photos']} photos in {len(rows)} folds, each held out"]
        lines.append("  fold  photos  faces  missed  extra  mean IoU  mean score drift  gate")
        for index, row in enumerate(rows):
            verdict = "passed" if not row["refused_for"] else ", ".join(row["refused_for"])
            lines.append(
                f"  {index + 1:4}{row['photos']:>8}{row['faces']:>7.0f}{row['missed']:>8.0f}"
                f"{row['extra']:>7.0f}{row['mean_iou']:>10.4f}{row['mean_score']:>18.4f}  {verdict}"
            )
    found = result["embeddings"]
    cosines = f"cosine {found['cosine_mean']:.4f} mean, {found['cosine_min']:.4f} least"
    lines += [
        "",
        f"{EMBEDDER} on {found['crops']} aligned crops that were not calibrated on",
        f"  {found['arithmetic']}",
        f"  {cosines}; rank of the norms {found['norm_rank']:.3f}",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of photos with faces")
    parser.add_argument(
        "--large", type=Path, metavar="ONNX", help=f"released {DETECTORS[0]}; fetched by default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of each network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(find_images(args.photos), args.large, args.threads, args.rounds)
    print(render(result), end="")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        args.json.with_suffix(".txt").write_text(render(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
