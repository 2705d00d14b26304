"""Find the layers most sensitive to int8: quantise each alone and compare the outputs.

Prints a table, the largest error first. Then it builds the YAML's list of layers in float, none
and the best that a search finds, and prints the one that loses least and is not slower than the
YAML's. The calibration data is that of the build YAML.

  facezoo sensitivity ../build_in/build/official_scrfd.yaml --plot sensitivity.png
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence

from ..fields import whole
from ..files import walk
from ..runs import Inputs
from ..vacc.build_config import read_build_config
from . import flags
from .compile import open_data, override
from .options import progress
from .outputs import write_report

__all__ = ["configure", "run"]

_log = logging.getLogger(__name__)

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
    from ..compiler.quantize import (
        calibrate,
        choose_arithmetic,
        excluded_layers,
        insert_qdq,
        lint_graph,
    )
    from ..compiler.sensitivity import (
        BuiltList,
        best_list,
        format_exclusions,
        longest_list,
        measure_error,
        measure_layers,
        search_list,
    )

    config = override(read_build_config(args.yaml), dtype="int8", model=args.model)
    read = Inputs((), (), config.file, config.frontend.checkpoint)
    read.refuse_file(args.json, args.plot)
    data, _ = open_data(config, None, False, args.allow_custom_code)
    operations = config.dataset.process_ops if config.dataset else ()
    code = (op.arguments.get("module_path") for op in operations)
    Inputs(walk(data.folder)[0], (), *code).refuse_file(args.json, args.plot)
    settings, arithmetic = config.backend.quantize, choose_arithmetic()
    calibrated = calibrate(prepare_source(config).folded, settings, data)
    for finding in lint_graph(calibrated.model, calibrated.stats):
        print(f"lint: {finding}")
    few = data.first(args.pictures)
    measured = measure_layers(calibrated, arithmetic, settings.quantize_per_channel, few)
    errors = list(progress(measured, len(calibrated.layers)))
    entries = _entries(errors)
    _print_table(entries)
    names = excluded_layers(calibrated.layers, settings, str(config.file))
    shipped = [layer for layer in calibrated.layers if layer.name in names]
    per_channel = settings.quantize_per_channel

    def lost_without(layers: Sequence[Any], exact: bool = False) -> float:
        left_out = [layer.name for layer in layers]
        balance = few if exact else None
        model = insert_qdq(calibrated, left_out, arithmetic, per_channel, data=balance)
        lost = measure_error(calibrated.model, model, few)
        return sum(lost.values()) / len(lost)

    found = search_list(errors, lost_without, longest_list(errors, shipped), _log.info)
    lists = {"of the YAML": shipped, "none": [], "found": found}
    graphs = {
        label: insert_qdq(
            calibrated, [layer.name for layer in layers], arithmetic, per_channel, data=few
        )
        for label, layers in lists.items()
    }
    times = _times(graphs, next(iter(few)))
    built = [
        BuiltList(label, tuple(layers), lost_without(layers, exact=True), times[label])
        for label, layers in lists.items()
    ]
    alone = sum(entry.error for entry in errors)
    print(f"\neach layer alone in int8 loses {alone:.3%} of the outputs' variance in sum; built:")
    _print_lists(built, sum(e["macs"] for e in entries))
    best = best_list(built)
    print(f"loses least without being slower than the YAML's list: {best.label}")
    print("to keep its layers in float, have this under backend.quantize:")
    print(format_exclusions(best.layers) or "no list")
    if args.json:
        report = {"schema": SCHEMA, "arithmetic": dataclasses.asdict(arithmetic)}
        measured_lists = [
            {
                "list": one.label,
                "layers": [layer.number for layer in one.layers],
                "lost": one.lost,
                "milliseconds": one.milliseconds,
                "best": one is best,
            }
            for one in built
        ]
        write_report(args.json, {**report, "layers": entries, "lists": measured_lists}, indent=2)
    if args.plot:
        from ..reports.plots import plot_sensitivity

        kept = {layer.name for layer in best.layers}
        proposed = {_label(entry) for entry in entries if entry["name"] in kept}
        lost = {_label(entry): entry["error"] for entry in entries}
        plot_sensitivity(lost, args.plot, Path(config.frontend.checkpoint).stem, proposed)
    return 0


def _times(graphs: Mapping[str, Any], feeds: Mapping[str, Any]) -> Dict[str, float]:
    """Measure the processor time of the graphs for one image, in turns.

    What is chosen must not depend on what else runs on this machine.
    """
    from ..backends.ort import open_session
    from ..evaluation.drift import time_in_turns

    def call(graph: Any) -> Callable[[], Any]:
        session = open_session(graph.SerializeToString(), 1)
        return lambda: session.run(None, dict(feeds))

    calls = {label: call(graph) for label, graph in graphs.items()}
    return time_in_turns(calls, clock=time.process_time)


def _print_lists(built: Sequence[Any], total: int) -> None:
    print(f"{'layers in float':>18}  {'number':>6}  {'MACs':>6}  {'lost':>8}  {'ms':>7}")
    for one in built:
        macs = sum(layer.macs for layer in one.layers) / max(total, 1)
        print(
            f"{one.label:>18}  {len(one.layers):6d}  {macs:6.1%}  {one.lost:8.4%}  "
            f"{one.milliseconds:7.2f}"
        )


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
