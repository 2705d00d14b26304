"""Evaluation of landmarks: flags, run and report."""

from __future__ import annotations

__all__ = [
    "add_landmark_options",
    "run_landmarks",
]

import argparse
from pathlib import Path

from ...evaluation.landmarks import evaluate_results
from ...files import write_json
from ...metrics.landmarks import NORMALIZERS
from ..options import add_output
from .html_reports import show_landmarks


def add_landmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the landmark evaluation."""
    parser.add_argument(
        "-p",
        "--pred",
        type=Path,
        required=True,
        metavar="PRED",
        help="results.json of vsx_infer.py or npz_decode.py",
    )
    parser.add_argument(
        "-g",
        "--gt",
        type=Path,
        required=True,
        metavar="GT",
        help="WFLW folder, as published or as written by preprocess_wflw.py",
    )
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZERS,
        default="WFLW",
        help="data set that defines the normalisation of the NME",
    )
    add_output(
        parser,
        "--json",
        metavar="FILE",
        help="write the report with the error of each face as JSON",
    )
    add_output(parser, "--plot", metavar="FILE", help="plot the cumulative error distribution")
    add_output(parser, "--html", metavar="FILE", help="write an HTML report")


def run_landmarks(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the requested files."""
    report = evaluate_results(args.pred, args.gt, args.normalizer)
    print("\n".join(report.lines()))
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_cumulative_errors

        plot_cumulative_errors({f"{report.crop} crop": report.errors}, args.plot)
    if args.html:
        show_landmarks(args, report)
    if args.json:
        write_json(args.json, report.to_dict())
    return 0
