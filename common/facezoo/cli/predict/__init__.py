r"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

A stage is given by a card's id, whose published weights are used, by an artifact prefix or by an
.onnx file, followed by @ort, @openvino or @vsx to choose its engine. Only the detector is needed.

  facezoo predict photo.jpg
  facezoo predict photo.jpg --json -
  facezoo predict photos --output out --draw
  facezoo predict photos --output out --embedder w600k_mbf --html out.html --csv out.csv
  facezoo predict photos --output who --embedder w600k_mbf --gallery known --draw
  facezoo predict photo.jpg --output out --landmarks onnx/pip_resnet18.onnx \
      --quality deploy_weights/sdd_fiqa/mod@openvino --profile quality.json

OUTPUT gets faces.jsonl (one line per photo, see facezoo/schemas/predict.schema.json), run.json,
with --embedder embeddings.npz, with --draw pictures/, with --parquet faces.parquet and
photos.parquet. Resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import logging
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

from ...errors import InputError
from ...profiles.measures import MEASURES
from .. import flags
from ..inputs import add_inputs
from ..options import add_run_options
from ..outputs import OutputFile

__all__ = ["add_decision", "add_stage_options", "configure", "run"]

DETECTOR = "scrfd_500m_bnkps"
CSV_FILE = "faces.csv"

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    add_inputs(parser)
    add_stage_options(parser)
    people = parser.add_argument_group("people")
    flags.add(
        people,
        "--similarity",
        "profile of facezoo calibrate similarity: number the people among the embedded faces "
        "(default: they are not numbered)",
    )
    flags.add(people, "--fmr", "false match rate, one of those in that profile", old=("--far",))
    people.add_argument(
        "--gallery",
        type=Path,
        metavar="GALLERY",
        help="folder of facezoo gallery: name the faces, each person once per photo (default: they "
        "are not named)",
    )
    add_decision(people)
    output = parser.add_argument_group("output")
    flags.add(
        output,
        "--output",
        "folder of results (default: none, the faces are printed)",
        type=Path,
        metavar="DIR",
        old=("--save_dir",),
    )
    flags.add(output, "--draw")
    flags.add(output, "--json", "write the faces as JSON; - is the standard output")
    # Without a value it meant faces.csv in the folder.
    flags.add(
        output, "--csv", "write one row per face", nargs="?", const=_IN_FOLDER, action=_CsvFile
    )
    flags.add(output, "--html")
    output.add_argument(
        "--parquet",
        action="store_true",
        help="write faces.parquet and photos.parquet to the folder of results",
    )
    add_run_options(parser)


def add_decision(parser: Any) -> None:
    """Add the flags that decide who of a gallery is known."""
    flags.add(parser, "--fpir")
    flags.add(
        parser,
        "--strangers",
        "people who are not enrolled, a folder each, or results of facezoo score, whose faces set "
        "the threshold (default: the enrolled among each other)",
    )
    flags.add(
        parser,
        "--min-similarity",
        f"{flags.SHARED['--min-similarity'].meaning} (default: that of --fpir)",
    )


def add_stage_options(parser: argparse.ArgumentParser, **defaults: str) -> None:
    """Add the flags of the stages and of the limits; :func:`open_predictor` reads them.

    Parameters
    ----------
    parser
        The verb's.
    defaults
        Models of the later stages, by name; the others have none.
    """
    stages = parser.add_argument_group("stages")
    flags.add_detector_options(stages, default=DETECTOR)
    for name in ("landmarks", "quality", "embedder"):
        meaning = flags.SHARED[f"--{name}"].meaning
        if name in defaults:
            flags.add(stages, f"--{name}", meaning, default=defaults[name])
        else:
            flags.add(stages, f"--{name}", f"{meaning} (default: none)")
    flags.add_runtime(stages)
    limits = parser.add_argument_group("acceptance limits of a face")
    flags.add(
        limits,
        "--profile",
        "profile of facezoo calibrate quality, to refuse low_quality faces; repeatable",
        action="append",
        default=[],
    )
    flags.add(
        limits,
        "--min-quality",
        "low_quality: name of a threshold in the profile",
        default="drop 5 %",
        metavar="NAME",
        old=("--threshold",),
    )
    flags.add(
        limits,
        "--appearance",
        "profile of facezoo calibrate appearance, for the other reasons (default: that of the "
        "package); the next flags replace single limits of it",
        type=Path,
        metavar="FILE",
        old=("--looks",),
    )
    for field, kind, _ in MEASURES.values():
        name = f"--{field.replace('_', '-')}"
        text = f"{flags.SHARED[name].meaning} (default: that of the profile)"
        flags.add(limits, name, text, type=kind, old=_OLD_LIMITS.get(name, ()))
    flags.add(limits, "--embed-refused")
    flags.add(limits, "--try-rotations")


class _CsvFile(OutputFile):
    """A table to write, and not the photos after a ``--csv`` without a value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Store the path."""
        # Imported here, since the help needs no decoder.
        from ...image.decode import IMAGE_SUFFIXES

        if values.is_dir() or values.suffix.lower() in IMAGE_SUFFIXES:
            raise argparse.ArgumentError(
                self, f"{str(values)!r} is not a table; name the file to write: --csv faces.csv"
            )
        super().__call__(parser, namespace, values, option_string)


_IN_FOLDER = Path("the result folder", CSV_FILE)
_OLD_LIMITS = {"--max-yaw": ("--max_turn",), "--max-truncation": ("--max_cut_off",)}


def run(args: argparse.Namespace) -> int:
    """Run the chain over the photos."""
    if args.csv is _IN_FOLDER:
        if args.output is None:
            raise InputError("--csv needs a file; name it: --csv faces.csv")
        args.csv = args.output / CSV_FILE
        _log.warning("--csv without a file goes with the next version; write --csv %s", args.csv)
    if args.draw and args.output is None:
        raise InputError("--draw writes images to the result folder; name it: --output DIR")
    if args.parquet:
        if args.output is None:
            raise InputError("--parquet writes to the result folder; name it: --output DIR")
        # Without pyarrow it says so here, not after hours of work.
        import_module("facezoo.scale.tables")
    # Imported here, since the help needs no network.
    from .work import predict_photos

    return predict_photos(args)
