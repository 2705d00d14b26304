"""Compare two builds of one model on images: outputs, results, time.

A and B are card ids, artifact prefixes or .onnx files, optionally followed by @ort, @openvino or
@vsx to choose the runtime, or folders of vamp's outputs together with their datalist.

"lost" is the energy of the difference as a share of a channel's variance, mean over the channels;
it is large for nearly constant channels. worst_corner is in pixels of the photo; times are medians
over the images.

  facezoo compare deploy_weights/x_fp32/mod deploy_weights/x_int8/mod --images photos/ --html x.html
  facezoo compare x.onnx x.onnx@openvino --images photos/
  facezoo compare x.onnx vamp_out/ --images photos/ --datalist list.txt
"""

from __future__ import annotations

import argparse
import base64
import html
import logging
from pathlib import Path
from typing import Any, List, Optional, Tuple

from ..backends import ENGINES, RuntimeOptions
from ..backends.base import Backend
from ..backends.replay import ReplayBackend
from ..datasets.widerface import read_ground_truth
from ..errors import InputError
from ..evaluation.drift import Comparison, Pair, compare_backends
from ..files import counted, write_bytes
from ..image.draw import draw_faces, draw_landmarks
from ..image.files import find_images, read_image_rgb
from ..pipeline.load import load
from ..results import Embedding, FaceDetections, Landmarks, QualityScore
from ..vacc.npz import read_pictures
from ..vacc.outputs import OutputFolder, output_name
from . import flags
from .options import EXIT_SOME_REFUSED, progress
from .outputs import write_report

__all__ = ["configure", "render_html", "render_text", "run"]

_log = logging.getLogger(__name__)

SHOWN = 12  # images in the HTML report
SIDE = 560  # longer side in pixels


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("reference", metavar="A", help="reference build")
    parser.add_argument("other", metavar="B", help="build to compare with the reference")
    flags.add(parser, "--images", "an image or a folder of them", required=True)
    flags.add(
        parser,
        "--gt",
        "ground truth of WIDER FACE, to compare AP too (default: only the outputs are compared)",
        old=("--ground-truth", "--ground_truth"),
    )
    flags.add(
        parser,
        "--datalist",
        "list of a folder of vamp's outputs (default: none is compared)",
        type=Path,
        metavar="LIST",
    )
    flags.add_reading(parser)
    flags.add(parser, "--allow-saturation")
    flags.add(parser, "--threads")
    flags.add(parser, "--json", "write the numbers as JSON; - is the standard output")
    flags.add(parser, "--html", "write an HTML report with the images")


def run(args: argparse.Namespace) -> int:
    """Compare the builds and print the result."""
    paths = _list_pictures(args.images, args.datalist)
    truth = read_ground_truth(args.gt) if args.gt else None
    with _open(args.reference, args) as reference, _open(args.other, args) as other:
        found = compare_backends(reference, other, progress(paths, len(paths)), truth)
    print(render_text(found))
    if args.json:
        write_report(args.json, found.to_dict(), indent=2)
    if args.html:
        write_bytes(args.html, render_html(found).encode("utf-8", "backslashreplace"))
    return EXIT_SOME_REFUSED if found.refused else 0


def _list_pictures(images: Path, datalist: Optional[Path]) -> List[Path]:
    if datalist is None:
        return find_images(images)
    return [
        images / picture.name for picture in read_pictures(datalist, images) if picture.line >= 0
    ]


def _open(source: str, args: argparse.Namespace) -> Backend:
    engine, colon, rest = source.partition(":")
    runtime = RuntimeOptions(allow_saturation=args.allow_saturation)
    if colon and engine in ENGINES:
        _log.warning("%s is spelled %s@%s now", source, rest, engine)
        return load(rest, runtime=runtime, engine=engine).backend
    if not Path(source, output_name(0)).is_file():
        return load(source, runtime=runtime).backend
    if args.datalist is None:
        raise InputError(f"{source!r} contains recorded outputs; give their list with --datalist")
    return _replay(Path(source), args.datalist, args.images)


def _replay(folder: Path, datalist: Path, images: Path) -> ReplayBackend:
    outputs = OutputFolder(folder, datalist)
    contract = outputs.contract
    if contract is None:
        raise InputError(
            f"{str(folder)!r} has no vamp.json, so its network is unknown; create the outputs "
            "with facezoo vamp"
        )
    pictures = [picture for picture in read_pictures(datalist, images) if picture.line >= 0]
    records = (outputs.raw_outputs(picture, contract).arrays for picture in pictures)
    return ReplayBackend(records, contract)


def render_text(found: Comparison) -> str:
    """Format a comparison as aligned text."""
    lines = [
        f"{found.model}, {found.pictures} image{'s' * (found.pictures != 1)}",
        f"A  {found.builds[0]}",
        f"B  {found.builds[1]}",
        "",
        "output            cosine   SNR dB   max error     lost  worst channel",
    ]
    lines += [
        f"{name:14}{drift.cosine:>10.6f}{drift.snr_db:>9.1f}{drift.max_error:>12.4g}"
        f"{drift.lost:>9.2%}{drift.worst_lost:>15.2%}"
        for name, drift in found.outputs.items()
    ]
    if found.task:
        lines += ["", "results of B compared with A"]
    lines += [f"{name:20}{value:>12.5g}" for name, value in found.task.items()]
    lines += ["", f"{'time':20}{'A':>12}{'B':>12}     B/A"]
    lines += [
        f"{stage:20}{a:>9.2f} ms{b:>9.2f} ms   {f'{b / a:.2f}x' if a else ''}"
        for stage, (a, b) in found.milliseconds.items()
    ]
    lines += [f"refused: {reason}" for reason in found.refused.values()]
    lines += ["", found.measured.line()]
    return "\n".join(lines)


_PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
figure {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5em; margin: 1.5em 0 }}
figcaption {{ grid-column: 1 / 3 }}
img {{ width: 100% }}
</style>
<h1>{title}</h1>
<pre>{text}</pre>
{figures}
"""


def render_html(found: Comparison) -> str:
    """Write a comparison as an HTML report, with the most different images side by side."""
    ordered = sorted(found.pairs, key=lambda pair: -pair.difference)
    differing = [pair for pair in ordered[:SHOWN] if pair.difference > 0]
    figures = "\n".join(map(_figure, differing)) or "<p>No image differs.</p>"
    title = html.escape(f"{found.model}: two builds compared")
    return _PAGE.format(title=title, text=html.escape(render_text(found)), figures=figures)


def _figure(pair: Pair) -> str:
    image = read_image_rgb(pair.path)
    sides, words = zip(*(_draw(image, result) for result in (pair.reference, pair.other)))
    caption = html.escape(f"{pair.path.name}: A (left) {words[0]}, B (right) {words[1]}")
    pictures = "".join(f'<img alt="" src="data:image/jpeg;base64,{side}">' for side in sides)
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"


def _draw(image: Any, result: Any) -> Tuple[str, str]:
    """Return a small drawing as base64 JPEG, and a description of the result."""
    import cv2

    words = repr(result)
    if isinstance(result, FaceDetections):
        image, words = draw_faces(image, result), counted(len(result), "face")
    elif isinstance(result, Landmarks):
        image = draw_landmarks(image, [result])
    elif isinstance(result, Embedding):
        words = f"norm {result.norm:.2f}"
    elif isinstance(result, QualityScore):
        words = f"quality {result.value:.2f}"
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
    return base64.b64encode(encoded.tobytes()).decode(), words
