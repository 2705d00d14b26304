"""Find the layers most sensitive to int8: quantise each alone and compare the outputs.

Prints a table, the largest error first, and the lines of ``backend.quantize`` that keep the worst
layers in float. The calibration data is that of the build YAML.

  facezoo sensitivity ../build_in/build/official_scrfd.yaml --plot sensitivity.png
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Dict, List

from ..fields import whole
from ..runs import Inputs
from ..vacc.build_config import read_build_config
from . import flags
from .compile import open_data, override
from .options import progress
from .outputs import write_report

__all__ = ["configure", "run"]

SCHEMA = "facezoo.sensitivity/1"
BAR = 30  # characters of the longest bar
ROWS = 20  # rows of the table; --json has all


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("yaml", type=Path, metavar="YAML", help="a recipe's build_in/build/*.yaml")
    flags.add(
        parser,
        "--model",
        "card's id or .onnx that overrides frontend.checkpoint (default: the YAML's)",
        old=("--checkpoint",),
    )
    flags.add_reading(parser)
    flags.add(parser, "--threads")
    flags.add(
        parser,
        "--pictures",
        "number of calibration files to measure on",
        type=whole(1, 100_000),
        default=8,
        metavar="N",
    )
    flags.add(parser, "--plot", "plot the errors as bars")
    flags.add(parser, "--json", "write the errors as JSON; - is the standard output")
    flags.add(parser, "--allow-custom-code")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and propose layers to exclude."""
    from ..compiler.build import prepare_source
    from ..compiler.quantize import calibrate, choose_arithmetic, insert_qdq, lint_graph
    from ..compiler.sensitivity import format_exclusions, measure_error, measure_layers, propose

    config = override(read_build_config(args.yaml), dtype="int8", model=args.model)
    read = Inputs((), (), config.file, config.frontend.checkpoint)
    read.refuse_file(args.json, args.plot)
    data = open_data(config, None, False, args.allow_custom_code)
    settings, arithmetic = config.backend.quantize, choose_arithmetic()
    calibrated = calibrate(prepare_source(config).folded, settings, data)
    for finding in lint_graph(calibrated.model, calibrated.stats):
        print(f"lint: {finding}")
    few = data.first(args.pictures)
    measured = measure_layers(calibrated, arithmetic, settings.quantize_per_channel, few)
    errors = list(progress(measured, len(calibrated.layers)))
    entries = _entries(errors)
    _print_table(entries)
    chosen = propose(errors)

    def error_without(names: List[str]) -> float:
        model = insert_qdq(calibrated, names, arithmetic, settings.quantize_per_channel, data=few)
        lost = measure_error(calibrated.model, model, few)
        return sum(lost.values()) / len(lost)

    print(f"all layers in int8: {error_without([]):.3%} of the outputs' variance is lost")
    left_out = error_without([layer.name for layer in chosen])
    macs = sum(layer.macs for layer in chosen) / max(sum(e["macs"] for e in entries), 1)
    print(f"without {len(chosen)} of them ({macs:.1%} of the MACs): {left_out:.3%}; to keep them")
    print("in float, put this under backend.quantize:")
    print(format_exclusions(chosen))
    if args.json:
        report = {"schema": SCHEMA, "arithmetic": dataclasses.asdict(arithmetic)}
        write_report(args.json, {**report, "layers": entries}, indent=2)
    if args.plot:
        from ..reports.plots import plot_sensitivity

        plot_sensitivity({_label(e): e["error"] for e in entries}, args.plot)
    return 0


def _entries(errors: List[Any]) -> List[Dict[str, Any]]:
    return [
        {
            "number": entry.layer.number,
            "operator": entry.layer.op_type,
            "key": entry.layer.key,
            "key_number": entry.layer.key_number,
            "name": entry.layer.name,
            "macs": entry.layer.macs,
            "error": entry.error,
            "worst_output": entry.worst_output,
            "worst_error": entry.worst_error,
        }
        for entry in errors
    ]


def _label(entry: Dict[str, Any]) -> str:
    return f"{entry['operator']} {entry['key_number']}"


def _print_table(entries: List[Dict[str, Any]]) -> None:
    total = max(sum(entry["macs"] for entry in entries), 1)
    ordered = sorted(entries, key=lambda entry: -float(entry["error"]))
    largest = max(float(ordered[0]["error"]), 1e-12)
    print(f"{'layer':>18}  {'MACs':>6}  {'lost':>8}  {'most of output':24}")
    for entry in ordered[:ROWS]:
        bar = "#" * round(BAR * entry["error"] / largest)
        worst = f"{entry['worst_output']} {entry['worst_error']:.3%}"
        print(
            f"{_label(entry):>18}  {entry['macs'] / total:6.1%}  {entry['error']:8.4%}  "
            f"{worst:24}  {bar}"
        )
    if len(ordered) > ROWS:
        print(f"{len(ordered) - ROWS} more lose {ordered[ROWS]['error']:.4%} or less each")
