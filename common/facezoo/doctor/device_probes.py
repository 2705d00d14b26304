"""Probes of device behaviour that the vendor's documents do not describe.

Each probe is a function that runs small images through a compiled network and looks at the
pre-processed tensor, or uses the runtime in a way whose outcome is not documented. With NormaType
EQUAL the tensor holds the pixels as they are, so that colours, borders and rounding can be read off
it; what the network then makes of them does not matter.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from ..backends.vsx import (
    TENSOR_OUTPUT,
    DeviceGraph,
    DeviceResult,
    DeviceStream,
    build_graph,
    import_runtime,
)
from ..card import NORMS, RESIZES, Preprocess
from ..errors import FaceZooError
from ..image.preprocess import normalisation_table
from ..image.resize import resize_image
from ..vacc.vdsp import render_vdsp

__all__ = [
    "DEVICE_PROBES",
    "Answer",
    "Probe",
    "Setup",
    "run_pictures",
]


GREY = 200  # A colour that no padding is likely to have.
BACK_PRESSURE_CALLS = 256
BACK_PRESSURE_SECONDS = 3.0
RATE_CALLS = 64


@dataclass(frozen=True)
class Setup:
    """The network to probe.

    Attributes
    ----------
    prefix
        Prefix of the vendor's three files.
    input_hw
        Height and width of the network's input.
    device_id
        Device number.
    timeout
        Seconds one step of the runtime may take.
    """

    prefix: Path
    input_hw: Tuple[int, int]
    device_id: int
    timeout: float

    def plain(self, **change: Any) -> Preprocess:
        """Return a pre-processing that leaves pixels as they are, but for the changes."""
        return Preprocess(**{"input_hw": self.input_hw, "norm": "EQUAL", **change})


class Answer(NamedTuple):
    """The answer in one line, and the measured values."""

    text: str
    measured: Any = None


class Probe(NamedTuple):
    """A question, and the function that answers it."""

    text: str
    ask: Callable[[Setup], Answer]


@contextmanager
def _vdsp_file(entry: Mapping[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="facezoo-vdsp-") as folder:
        path = Path(folder, "vdsp_params.json")
        path.write_text(json.dumps(entry), encoding="utf-8")
        yield path


def run_pictures(
    setup: Setup, entry: Mapping[str, Any], images_rgb: Sequence[np.ndarray], batch: int = 1
) -> List[DeviceResult]:
    """Run images through the device in batches.

    Parameters
    ----------
    setup
        The network.
    entry
        Content of a vdsp_params JSON for RGB_PLANAR images.
    images_rgb
        Each (H, W, 3), uint8, RGB.
    batch
        Images in one call; the last call may have fewer.

    Returns
    -------
    list of DeviceResult
        One per image, with its pre-processed tensor.
    """
    with _vdsp_file(entry) as path:
        stream = DeviceStream(
            setup.prefix,
            path,
            device_id=setup.device_id,
            batch=batch,
            with_tensor=True,
            timeout=setup.timeout,
        )
    try:
        calls = [
            stream.submit(images_rgb[first : first + batch])
            for first in range(0, len(images_rgb), batch)
        ]
        return [result for call in calls for result in stream.result(call)]
    finally:
        stream.close()


def _tensors(
    setup: Setup, preprocess: Preprocess, images_rgb: Sequence[np.ndarray], without: str = ""
) -> List[np.ndarray]:
    """Return the pre-processed tensors, float32; ``without`` is a key to leave out of the JSON."""
    entry = render_vdsp(preprocess)
    entry["OpConfig"].pop(without, None)
    results = run_pictures(setup, entry, images_rgb)
    return [np.asarray(result.tensor, dtype=np.float32) for result in results]


def _grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2026).integers(0, 256, (height, width, 3), np.uint8)


def _pad_colour(setup: Setup) -> Answer:
    height, width = setup.input_hw
    wide = _grey(max(1, height // 4), width)
    letterbox = setup.plain(fit="letterbox", pad_value=(10, 20, 30))
    swapped = replace(letterbox, color_conversion="RGB2BGR")
    found = {
        "default": _tensors(setup, letterbox, [wide], without="Padding")[0],
        "Padding [10, 20, 30]": _tensors(setup, letterbox, [wide])[0],
        "Padding [10, 20, 30], RGB2BGR": _tensors(setup, swapped, [wide])[0],
    }
    corners = {name: tensor[:, 0, 0].tolist() for name, tensor in found.items()}
    given, converted = corners["Padding [10, 20, 30]"], corners["Padding [10, 20, 30], RGB2BGR"]
    obeyed = "obeyed" if given == [10, 20, 30] else "not obeyed"
    order = {(30, 20, 10): "before", (10, 20, 30): "after"}.get(tuple(converted), "neither way to")
    return Answer(
        f"without Padding the colour is {corners['default']}; Padding is {obeyed}, and applied "
        f"{order} the colour conversion",
        corners,
    )


# How the fractional side of a letterboxed image is rounded.
_SIZES: Dict[str, Callable[[float], int]] = {
    "floor": math.floor,
    "round half to even": round,
    "round half up": lambda exact: math.floor(exact + 0.5),
    "ceil": math.ceil,
}
# Pixels before it, from the network's side, the image's rounded side and its fractional one.
# source: VastStreamX-Samples@0643263 for the two that start from the fractional side
_OFFSETS: Dict[str, Callable[[int, int, float], int]] = {
    "floor of half the free pixels": lambda full, whole, exact: (full - whole) // 2,
    "half the free pixels, half to even": lambda full, whole, exact: round((full - whole) / 2),
    "ceil of half the free pixels": lambda full, whole, exact: (full - whole + 1) // 2,
    "floor of half the unrounded rest": lambda full, whole, exact: int((full - exact) / 2),
    "half the unrounded rest less 0.1, rounded": (
        lambda full, whole, exact: round((full - exact) / 2 - 0.1)
    ),
}


def _letterbox_rounding(setup: Setup) -> Answer:
    height, width = setup.input_hw
    # Enough sizes for every fraction to come with an even and an odd number of free pixels; a
    # fraction of exactly one half needs a side that is a multiple of the network's.
    sizes = [(97, side) for side in range(31, 61)] + [(2 * height, 51), (2 * height, 53)]
    sizes += [(side, 97) for side in range(31, 61)] + [(51, 2 * width), (53, 2 * width)]
    letterbox = setup.plain(fit="letterbox")
    tensors = _tensors(setup, letterbox, [_grey(*size) for size in sizes])
    measured = [_box(size, tensor[0] > 0) for size, tensor in zip(sizes, tensors)]
    sides = [
        side
        for one in measured
        for side in zip(
            setup.input_hw, one["inner_hw"], one["top_left"], _exact(setup, one["image_hw"])
        )
    ]
    size_rules = [
        name
        for name, rule in _SIZES.items()
        if all(whole == max(1, rule(exact)) for _, whole, _, exact in sides)
    ]
    offset_rules = [
        name
        for name, rule in _OFFSETS.items()
        if all(offset == rule(full, whole, exact) for full, whole, offset, exact in sides)
    ]
    return Answer(
        f"size by {_or_none(size_rules)}; offset by {_or_none(offset_rules)}",
        measured,
    )


def _box(image_hw: Tuple[int, int], inside: np.ndarray) -> Dict[str, Any]:
    """Find where an image lies in the network's input."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return {"image_hw": list(image_hw), "inner_hw": [0, 0], "top_left": [0, 0]}
    return {
        "image_hw": list(image_hw),
        "inner_hw": [int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)],
        "top_left": [int(rows[0]), int(columns[0])],
    }


def _exact(setup: Setup, image_hw: Sequence[int]) -> Tuple[float, float]:
    """Return the letterboxed size before rounding; the side that just fits is whole."""
    (height, width), (full_height, full_width) = image_hw, setup.input_hw
    if height * full_width > width * full_height:
        return full_height, full_height * width / height
    return full_width * height / width, full_width


def _or_none(rules: Sequence[str]) -> str:
    return " or ".join(rules) or "none of the known rules"


def _whole_pixels(setup: Setup) -> Answer:
    (tensor,) = _tensors(setup, setup.plain(), [_noise(23, 37)])
    share = float(np.mean(tensor == np.round(tensor)))
    whole = share == 1.0
    return Answer(
        "pixels are whole numbers after resizing"
        if whole
        else f"pixels keep fractions after resizing ({share:.1%} are whole)",
        {"share_of_whole": share},
    )


def _resize_types(setup: Setup) -> Answer:
    height, width = setup.input_hw
    pictures = {
        "up": _noise(height // 3 + 1, width // 2 + 1),
        "down": _noise(2 * height + 3, 3 * width + 5),
    }
    measured: Dict[str, Any] = {}
    for kind in RESIZES:
        try:
            tensors = _tensors(setup, setup.plain(resize=kind), list(pictures.values()))
        except FaceZooError as error:
            measured[kind] = {"error": str(error)}
            continue
        measured[kind] = {
            name: _nearest_resize(setup, picture, tensor)
            for (name, picture), tensor in zip(pictures.items(), tensors)
        }
    own = measured["BILINEAR_CV"]
    if "error" in own:
        return Answer(f"BILINEAR_CV failed: {own['error']}", measured)
    worst = max(one["differences"]["BILINEAR_CV"]["max"] for one in own.values())
    return Answer(f"BILINEAR_CV is within {worst:g} of OpenCV's bilinear resizing", measured)


def _nearest_resize(setup: Setup, picture: np.ndarray, tensor: np.ndarray) -> Dict[str, Any]:
    """Compare with what each kind of resizing gives on the host."""
    differences = {}
    for kind in RESIZES:
        host = resize_image(picture, setup.input_hw, kind).transpose(2, 0, 1).astype(np.float32)
        gap = np.abs(tensor - host)
        differences[kind] = {"max": float(gap.max()), "mean": float(gap.mean())}
    nearest = min(differences, key=lambda kind: differences[kind]["mean"])
    return {"nearest": nearest, "differences": differences}


def _normalisation(setup: Setup) -> Answer:
    height, width = setup.input_hw
    ramp = np.arange(height * width * 3, dtype=np.int64).reshape(height, width, 3) * 7 % 256
    image = ramp.astype(np.uint8)
    measured: Dict[str, Any] = {}
    for norm in NORMS:
        for conversion in ("NO_CHANGE", "RGB2BGR"):
            # Numbers that float16 holds, and another for each channel, so that their order shows.
            unit = 1.0 if norm.startswith("DIV255") else 256.0
            preprocess = setup.plain(
                norm=norm,
                color_conversion=conversion,
                mean=(0.25 * unit, 0.5 * unit, 0.75 * unit),
                std=(0.5 * unit, unit, 2.0 * unit),
            )
            try:
                (tensor,) = _tensors(setup, preprocess, [image])
            except FaceZooError as error:
                measured[f"{norm} {conversion}"] = {"error": str(error)}
                continue
            table = normalisation_table(preprocess, half_output=True)
            fed = image[:, :, ::-1] if preprocess.swaps_channels else image
            host = np.stack([table[channel][fed[:, :, channel]] for channel in range(3)])
            scale = max(1.0, float(np.abs(host).max()))
            gap = float(np.abs(tensor - host).max())
            measured[f"{norm} {conversion}"] = {"max_error": gap, "share_of_range": gap / scale}
    far = [name for name, one in measured.items() if one.get("share_of_range", 1.0) > 2e-3]
    return Answer(
        f"not as documented: {', '.join(far)}" if far else "all formulas are as documented",
        measured,
    )


def _output_size(setup: Setup) -> Answer:
    height, width = setup.input_hw
    picture = _noise(height, width)
    expected = run_pictures(setup, render_vdsp(setup.plain()), [picture])[0].outputs
    other = replace(setup.plain(), input_hw=(height // 2, width // 2))
    with _vdsp_file(render_vdsp(other)) as path:
        # The tensor is not registered: its declared shape is the model's.
        stream = DeviceStream(setup.prefix, path, device_id=setup.device_id, timeout=setup.timeout)
    try:
        (result,) = stream.result(stream.submit([picture]))
    except FaceZooError as error:
        return Answer(f"another size than the model's is refused: {error}")
    finally:
        stream.close()
    same = all(
        np.array_equal(one, two, equal_nan=True) for one, two in zip(result.outputs, expected)
    )
    return Answer(
        "the model's size is taken"
        if same
        else "the JSON's size is taken, or the outputs are meaningless",
        {"shapes": [list(output.shape) for output in result.outputs]},
    )


def _picture_sizes(setup: Setup) -> Answer:
    sizes = [(1, 1), (2, 2), (3, 5), (31, 97), (97, 31), (5, 640), (1081, 1921), (3000, 4000)]
    measured: Dict[str, str] = {}
    for height, width in sizes:
        try:
            (tensor,) = _tensors(setup, setup.plain(fit="letterbox"), [_grey(height, width)])
            seen = float(np.mean(tensor == GREY))
            measured[f"{width}x{height}"] = f"runs, {seen:.1%} of the input is the image"
        except FaceZooError as error:
            measured[f"{width}x{height}"] = str(error)
    failed = [size for size, text in measured.items() if not text.startswith("runs")]
    return Answer(f"fail: {', '.join(failed)}" if failed else "all run", measured)


def _tail_batch(setup: Setup) -> Answer:
    images = [_noise(40 + index, 50) for index in range(5)]
    entry = render_vdsp(setup.plain(fit="letterbox", norm="DIV255"))
    alone = run_pictures(setup, entry, images)
    try:
        batched = run_pictures(setup, entry, images, batch=2)
    except FaceZooError as error:
        return Answer(f"5 images in batches of 2 fail: {error}")
    gaps = [
        float(np.max(np.abs(one.astype(np.float32) - two.astype(np.float32))))
        for first, second in zip(alone, batched)
        for one, two in zip(first.outputs, second.outputs)
    ]
    return Answer(
        f"a last batch of 1 in batches of 2 runs; outputs are within {max(gaps):.2g} of batch 1's",
        {"max_error": max(gaps)},
    )


def _cross_call_batching(setup: Setup) -> Answer:
    image = _noise(*setup.input_hw)
    entry = render_vdsp(setup.plain(norm="DIV255"))
    rates = {
        "batch 1": _rate(setup, entry, image, batch=1, in_a_call=1),
        "batch 4, 1 in a call": _rate(setup, entry, image, batch=4, in_a_call=1),
        "batch 4, 4 in a call": _rate(setup, entry, image, batch=4, in_a_call=4),
    }
    singles, full = (rates[name] / rates["batch 1"] for name in list(rates)[1:])
    return Answer(
        f"images/s against batch 1: {singles:.2f}x with 1 in a call of 4, {full:.2f}x with 4",
        rates,
    )


def _rate(
    setup: Setup, entry: Mapping[str, Any], image: np.ndarray, batch: int, in_a_call: int
) -> float:
    with _vdsp_file(entry) as path:
        stream = DeviceStream(
            setup.prefix, path, device_id=setup.device_id, batch=batch, timeout=setup.timeout
        )
    try:
        stream.result(stream.submit([image] * in_a_call))
        started = time.perf_counter()
        calls = [stream.submit([image] * in_a_call) for _ in range(RATE_CALLS // in_a_call)]
        count = sum(len(stream.result(call)) for call in calls)
        return count / (time.perf_counter() - started)
    finally:
        stream.close()


def _graph(setup: Setup) -> DeviceGraph:
    with _vdsp_file(render_vdsp(setup.plain())) as path:
        return build_graph(setup.prefix, path, device_id=setup.device_id)


def _picture_on_device(setup: Setup) -> Any:
    runtime, (height, width) = import_runtime(), setup.input_hw
    planes = np.zeros((3, height, width), np.uint8)
    formats = runtime.ImageFormat
    return runtime.create_image(planes, formats.RGB_PLANAR, width, height, setup.device_id)


def _back_pressure(setup: Setup) -> Answer:
    graph = _graph(setup)
    image = _picture_on_device(setup)
    sent = 0

    def send() -> None:
        nonlocal sent
        for _ in range(BACK_PRESSURE_CALLS):
            graph.stream.run_async([image])
            sent += 1

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(BACK_PRESSURE_SECONDS)
    before = sent
    if not sender.is_alive():
        return Answer(
            f"run_async accepted {sent} calls without a result being read", {"calls": sent}
        )
    sender.join(BACK_PRESSURE_SECONDS)
    blocked = "blocks" if sent == before else "is slow"
    return Answer(
        f"run_async {blocked} after {sent} calls without a result being read", {"calls": sent}
    )


def _raised_by(action: Callable[[], Any]) -> Answer:
    try:
        returned = action()
    except BaseException as error:
        kinds = [one.__name__ for one in type(error).__mro__[:-1]]
        return Answer(f"{kinds[0]}: {str(error)[:200]}", {"classes": kinds})
    return Answer(f"no exception; gives {returned!r}"[:200])


def _set_an_absent_die(setup: Setup) -> Answer:
    return _raised_by(lambda: import_runtime().set_device(99))


def _load_nothing(setup: Setup) -> Answer:
    runtime = import_runtime()
    runtime.set_device(setup.device_id)
    return _raised_by(lambda: runtime.Model(str(setup.prefix) + "-none", 1))


def _create_a_wrong_picture(setup: Setup) -> Answer:
    runtime = import_runtime()
    runtime.set_device(setup.device_id)
    planes = np.zeros((3, 16, 24), np.uint8)
    formats = runtime.ImageFormat
    return _raised_by(
        lambda: runtime.create_image(planes, formats.RGB_PLANAR, 48, 32, setup.device_id)
    )


def _send_too_many(setup: Setup) -> Answer:
    graph = _graph(setup)
    image = _picture_on_device(setup)

    def act() -> str:
        graph.stream.run_async([image, image])
        return f"{len(graph.stream.get_operator_output(graph.network))} results"

    return _raised_by(act)


def _send_after_the_end(setup: Setup) -> Answer:
    graph = _graph(setup)
    image = _picture_on_device(setup)
    graph.stream.close_input()
    return _raised_by(lambda: graph.stream.run_async([image]))


def _take_after_the_end(setup: Setup) -> Answer:
    graph = _graph(setup)
    graph.stream.close_input()
    return _raised_by(lambda: graph.stream.get_operator_output(graph.network))


def _take_an_unknown_output(setup: Setup) -> Answer:
    graph = _graph(setup)
    return _raised_by(lambda: graph.stream.get_operator_output(TENSOR_OUTPUT))


DEVICE_PROBES: Dict[str, Probe] = {
    "pad_colour": Probe("which colour does a letterbox have, and when is it applied?", _pad_colour),
    "letterbox_rounding": Probe(
        "how are the size and the offset of a letterboxed image rounded?", _letterbox_rounding
    ),
    "whole_pixels": Probe("are pixels rounded between resizing and normalising?", _whole_pixels),
    "resize_types": Probe("what does each ResizeType compute?", _resize_types),
    "normalisation": Probe("does each NormaType compute what its name says?", _normalisation),
    "output_size": Probe(
        "does OimageWidth of the JSON or the model decide the input size?", _output_size
    ),
    "picture_sizes": Probe("do odd, tiny and huge images run?", _picture_sizes),
    "tail_batch": Probe("does a call with fewer images than the batch run?", _tail_batch),
    "cross_call_batching": Probe(
        "are calls of one image combined into batches?", _cross_call_batching
    ),
    "back_pressure": Probe("does run_async wait for results to be taken?", _back_pressure),
    "raises_absent_die": Probe("what does set_device do for an absent device?", _set_an_absent_die),
    "raises_absent_model": Probe("what does Model raise without its files?", _load_nothing),
    "raises_wrong_picture": Probe(
        "what does create_image raise for a size that is not the array's?", _create_a_wrong_picture
    ),
    "raises_too_many": Probe("what does run_async raise beyond the batch?", _send_too_many),
    "raises_after_the_end": Probe("what does run_async raise after the end?", _send_after_the_end),
    "raises_at_the_end": Probe(
        "what does get_operator_output raise at the end?", _take_after_the_end
    ),
    "raises_unknown_output": Probe(
        "what does get_operator_output raise for an unknown name?", _take_an_unknown_output
    ),
}
