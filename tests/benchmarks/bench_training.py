"""Time MagFace's training on this CPU, and lay its loss in bf16 beside the one in fp32.

The plain loop is what one writes first: float32, contiguous tensors, the same network, loss and
optimiser. Against it stand the trainer in fp32, in bf16 with channels last, and that with
torch.compile, and the roofline, a step's convolutions alone; each is a process of its own, and
they take turns step by step. The curves are the trainer's in fp32 and in bf16, over the same
batches with the same dropout.

  OMP_NUM_THREADS=2 python tests/benchmarks/bench_training.py --json training.json

``speed`` wants a quiet machine, ``curves`` only time: ``--only`` measures one of them anew, and
keeps the other as the file has it.
"""

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from facezoo.models.magface.loss import MagHead
from facezoo.models.magface.network import EMBEDDING_SIZE, build
from facezoo.models.magface.settings import LossSettings, TrainSettings
from facezoo.models.magface.train import Trainer, seeded
from facezoo.models.resumable import keep_freed_memory
from facezoo.reports.plots import plot_losses

CLASSES, BATCH = 1000, 32
CURVE_BATCH = 8  # so that two hundred steps in float32 take minutes
WARM_UP = 3
SETTLE = 0.5  # seconds, until the other side's idle threads have stopped spinning


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


def batches(faces, steps, size=BATCH):
    for step in range(steps):
        rows = [faces[0, step * size + row] for row in range(size)]
        yield tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows))


def plain_loop(settings):
    """Return a function that learns from a batch."""
    network = seeded(lambda: build("iresnet18"), settings.seed)
    head = MagHead(EMBEDDING_SIZE, CLASSES, settings.loss)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, settings.lr, 0.9, weight_decay=5e-4)

    def learn(faces, labels, _):
        output = head(network(faces.float() / 255.0), labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()

    return learn


def roofline():
    """Return a function that runs the convolutions of a step in bf16, forward and backward."""
    network = build("iresnet18").to(memory_format=torch.channels_last)
    inputs = {}
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(
                lambda module, given: inputs.update({module: given[0]})
            )
    with torch.no_grad():
        network(torch.rand(BATCH, 3, 112, 112).contiguous(memory_format=torch.channels_last))
    jobs = []
    for number, (module, given) in enumerate(inputs.items()):
        pair = [given, module.weight.detach()]
        pair = [one.bfloat16().contiguous(memory_format=torch.channels_last) for one in pair]
        # The photos need no gradient.
        wanted = pair[number == 0 :]
        for one in wanted:
            one.requires_grad_()
        how = {"stride": module.stride, "padding": module.padding}
        gradient = torch.randn_like(torch.nn.functional.conv2d(*pair, **how))
        jobs.append((pair, how, wanted, gradient))

    def learn(*_):
        for pair, how, wanted, gradient in jobs:
            torch.autograd.grad(torch.nn.functional.conv2d(*pair, **how), wanted, gradient)

    return learn


def trainer(precision, faces, compiled=False):
    keep_freed_memory()
    settings = settings_of(precision)
    return Trainer(settings, faces, CLASSES, lambda: build("iresnet18"), compiled=compiled)


def settings_of(precision):
    loss = LossSettings()
    return TrainSettings(loss=loss, epochs=1, batch_size=BATCH, lr=0.02, precision=precision)


SIDES = {
    "plain_fp32": lambda faces: plain_loop(settings_of("fp32")),
    "fp32": lambda faces: trainer("fp32", faces).learn,
    "bf16": lambda faces: trainer("bf16", faces).learn,
    "bf16_compiled": lambda faces: trainer("bf16", faces, compiled=True).learn,
    "bf16_convs": lambda faces: roofline(),
}


def take_turns(side, steps):
    """Answer each line with the seconds of the next step."""
    faces = Patterns((WARM_UP + steps) * BATCH)
    learn = SIDES[side](faces)
    for _, batch in zip(sys.stdin, batches(faces, WARM_UP + steps)):
        start = time.perf_counter()
        learn(*batch)
        print(time.perf_counter() - start, flush=True)


def measure_speed(steps):
    """Time a step of each in turns, so that what else the machine does hits all of them."""
    seconds = {side: [] for side in SIDES}
    with contextlib.ExitStack() as stack:
        processes = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--timed", str(steps)]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            processes[side] = stack.enter_context(process)
            stack.callback(process.stdin.close)
        for _ in range(WARM_UP + steps):
            for side, process in processes.items():
                time.sleep(SETTLE)
                print(file=process.stdin, flush=True)
                seconds[side].append(float(process.stdout.readline()))
    times = {side: np.array(values[WARM_UP:]) for side, values in seconds.items()}
    plain = times["plain_fp32"]
    return {
        "machine": f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{platform.machine()}",
        "steps": steps,
        "images_per_s": {side: round(BATCH / np.median(t), 1) for side, t in times.items()},
        "times_plain": {side: round(np.median(plain / t), 2) for side, t in times.items()},
    }


def measure_curves(steps):
    """Return the losses of the same batches in two precisions."""
    faces = Patterns(steps * CURVE_BATCH)
    curves = {}
    for precision in ("fp32", "bf16"):
        learn = trainer(precision, faces).learn
        curves[precision] = [
            round(learn(*batch).loss.item(), 3) for batch in batches(faces, steps, CURVE_BATCH)
        ]
    return curves


def text_of(result):
    """Write rates and curves as a page shows them."""
    lines = []
    if "speed" in result:
        speed = result["speed"]
        lines += [
            f"iresnet18, batch {BATCH}, {CLASSES} classes; {speed['machine']}",
            "",
            "                images/s   times the plain loop",
        ]
        for name, rate in speed["images_per_s"].items():
            lines.append(f"{name:14}  {rate:8.1f}   {speed['times_plain'][name]:6.2f}")
        if "bf16_convs" in speed["images_per_s"]:
            lines.append("bf16_convs: the convolutions of a step alone, forward and backward")
    if "curves" in result:
        lines += ["", f"batch {CURVE_BATCH}     loss fp32  loss bf16   (means over the steps)"]
        curves = [np.array(values) for values in result["curves"].values()]
        size = max(1, len(curves[0]) // 10)
        for start in range(0, len(curves[0]), size):
            means = [curve[start : start + size].mean() for curve in curves]
            end = min(start + size, len(curves[0]))
            lines.append(f"{start + 1:3} to {end:3}  {means[0]:9.3f}  {means[1]:9.3f}")
    return "\n".join(lines).strip() + "\n"


PARTS = {"speed": measure_speed, "curves": measure_curves}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    parser.add_argument("--timed", type=int, default=30, help="steps of the speed")
    parser.add_argument("--steps", type=int, default=200, help="of the curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="also write it as a page shows it"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        take_turns(args.side, args.timed)
        return 0
    result = {}
    if args.only and args.json and args.json.exists():
        result = json.loads(args.json.read_text("utf-8"))
    for part, steps in (("speed", args.timed), ("curves", args.steps)):
        if args.only in (None, part):
            result[part] = PARTS[part](steps)
    print(text_of(result))
    if args.json:
        args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if args.text:
        args.text.write_text(text_of(result), encoding="utf-8")
    if args.plot and "curves" in result:
        plot_losses(result["curves"], args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
