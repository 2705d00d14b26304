"""Time MagFace's training on this CPU, and lay its loss in bf16 beside the one in fp32.

The plain loop is what one writes first: float32, contiguous tensors, the same network, loss and
optimiser. Against it stand the trainer in bf16 with channels last, and that with torch.compile. The
curves are the trainer's in fp32 and in bf16, over the same batches with the same dropout.

  OMP_NUM_THREADS=2 python tests/benchmarks/bench_training.py --json training.json
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from facezoo.models.magface.loss import MagHead
from facezoo.models.magface.network import EMBEDDING_SIZE, build
from facezoo.models.magface.settings import LossSettings, TrainSettings
from facezoo.models.magface.train import Trainer, seeded
from facezoo.plots import plot_losses

CLASSES, BATCH = 1000, 32
WARM_UP = 3


class Patterns:
    """A pattern of eight by eight squares for each class, with noise over it."""

    def __init__(self, count):
        self._count = count
        rng = np.random.default_rng(2026)
        self._patterns = rng.integers(40, 216, (CLASSES, 3, 8, 8)).astype(np.uint8)

    def __len__(self):
        return self._count

    def __getitem__(self, key):
        rng = np.random.default_rng(key)
        label = key[1] % CLASSES
        face = self._patterns[label].repeat(14, axis=1).repeat(14, axis=2)
        noise = rng.integers(-40, 41, face.shape)
        return (face + noise).astype(np.uint8), label, rng.random(512, dtype=np.float32)


def batches(faces, steps):
    for step in range(steps):
        rows = [faces[0, step * BATCH + row] for row in range(BATCH)]
        yield tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows))


def plain_loop(settings, steps):
    """Return seconds a step."""
    network = seeded(lambda: build("iresnet18"), settings.seed)
    head = MagHead(EMBEDDING_SIZE, CLASSES, settings.loss)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, settings.lr, 0.9, weight_decay=5e-4)
    seconds = []
    for faces, labels, _ in batches(Patterns(steps * BATCH), steps):
        start = time.perf_counter()
        output = head(network(faces.float() / 255.0), labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def trainer_loop(settings, steps, compiled=False):
    """Return seconds and loss of each step."""
    faces = Patterns(steps * BATCH)
    trainer = Trainer(settings, faces, CLASSES, lambda: build("iresnet18"), compiled=compiled)
    seconds, losses = [], []
    for batch in batches(faces, steps):
        start = time.perf_counter()
        losses.append(trainer.learn(*batch).loss.item())
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def rate(seconds):
    return round(BATCH / float(np.median(seconds[WARM_UP:])), 1)


def measure(steps, timed):
    def settings(precision):
        loss = LossSettings()
        return TrainSettings(loss=loss, epochs=1, batch_size=BATCH, lr=0.02, precision=precision)

    plain = plain_loop(settings("fp32"), timed)
    _, fp32 = trainer_loop(settings("fp32"), steps)
    half, bf16 = trainer_loop(settings("bf16"), steps)
    compiled, _ = trainer_loop(settings("bf16"), timed, compiled=True)
    rates = {"plain_fp32": rate(plain), "bf16": rate(half), "bf16_compiled": rate(compiled)}
    return {
        "network": "iresnet18",
        "batch": BATCH,
        "classes": CLASSES,
        "machine": f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{platform.machine()}",
        "images_per_s": rates,
        "bf16_over_plain": round(rates["bf16"] / rates["plain_fp32"], 2),
        "compiled_over_plain": round(rates["bf16_compiled"] / rates["plain_fp32"], 2),
        "loss_fp32": [round(loss, 3) for loss in fp32],
        "loss_bf16": [round(loss, 3) for loss in bf16],
    }


def text_of(result):
    """Write rates and curves as a page shows them."""
    setting = f"{result['network']}, batch {result['batch']}, {result['classes']} classes"
    lines = [
        f"{setting}; {result['machine']}",
        "",
        "                            images/s   times the plain loop",
    ]
    plain = result["images_per_s"]["plain_fp32"]
    for name, value in result["images_per_s"].items():
        lines.append(f"{name:26}  {value:8.1f}   {value / plain:6.2f}")
    lines += ["", "steps      loss fp32  loss bf16   (means over the steps)"]
    curves = [np.array(result[f"loss_{name}"]) for name in ("fp32", "bf16")]
    size = max(1, len(curves[0]) // 10)
    for start in range(0, len(curves[0]), size):
        means = [curve[start : start + size].mean() for curve in curves]
        end = min(start + size, len(curves[0]))
        lines.append(f"{start + 1:3} to {end:3}  {means[0]:9.3f}  {means[1]:9.3f}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="of the curves")
    parser.add_argument("--timed", type=int, default=33, help="steps of the plain and compiled run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="also write it as a page shows it"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves here")
    args = parser.parse_args()
    result = measure(args.steps, args.timed)
    print(text_of(result))
    if args.json:
        args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if args.text:
        args.text.write_text(text_of(result), encoding="utf-8")
    if args.plot:
        curves = {"fp32": result["loss_fp32"], "bf16": result["loss_bf16"]}
        plot_losses(curves, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
