"""Speed tables from the result files of benchmarks."""

from __future__ import annotations

__all__ = [
    "install_table",
    "speed_tables",
]

import json
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ..errors import InputError
from .tables import EMPTY, Say, markdown_table, number_text

BENCHMARKS = Path("tests", "benchmarks", "results")


def speed_tables(root: Path, say: Say) -> str:
    """Format the benchmark results; the two kinds of comparison are kept separate."""
    results = {name: _read_benchmark(root, name) for name in ("peers", "embedding", "latency")}
    try:
        rows = [
            *_peer_rows(results["peers"], say),
            *_embedding_rows(results["embedding"], say),
            *_latency_rows(results["latency"], say),
        ]
        parts = []
        head = ("Work", "ours", "against", "theirs", "times", "of the roofline")
        for table, title in (
            ("same", "Same runtime, same precision:"),
            ("backend", "What choosing the backend buys:"),
        ):
            chosen = [cells for kind, cells in rows if kind == table]
            if chosen:
                parts += [say(title), markdown_table(map(say, head), chosen, numbers=(1, 3, 4, 5))]
        parts += _peer_notes(results["peers"], say)
        parts += _scaling(_read_benchmark(root, "scaling"), say)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        where = str(root / BENCHMARKS)
        raise InputError(
            f"a result in {where!r} has another form ({error!r}); run it again"
        ) from error
    return "\n\n".join(parts) or say("not measured")


def install_table(root: Path, say: Say) -> str:
    """Format what installing in new environments took, and how much a command does at its start."""
    result = _read_benchmark(root, "install")
    if not result:
        return say("not measured")
    head = ("Python", "with", "load", "installed in, s", "MB with all packages", "main jobs, s")
    try:
        starts = list(result["environments"][0]["start_cpu_seconds"])
        rows = [
            [
                row["python"],
                row["installer"],
                f"{row['load']}",
                f"{row['install_seconds']:.0f}",
                f"{row['megabytes']}",
                f"{row['use_seconds']:.0f}",
                *(f"{row['start_cpu_seconds'][name]:.2f}" for name in starts),
            ]
            for row in result["environments"]
        ]
        machine = result["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores; {result['wheel']}"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        path = str(root / BENCHMARKS / "install.json")
        raise InputError(f"{path!r} has another form ({error!r}); run it again") from error
    heads = [*map(say, head), *(f"`{name}`, s" for name in starts)]
    table = markdown_table(heads, rows, numbers=range(2, len(heads)))
    note = "load: processes waiting for a core; the last columns are processor time"
    return f"{table}\n\n{where}; {say(note)}"


def _read_benchmark(root: Path, name: str) -> Dict[str, Any]:
    path = root / BENCHMARKS / f"{name}.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not a benchmark result ({error})") from error


def _peer_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    for row in result.get("rows", ()):
        ours, theirs = (f"{rate:.1f} {say('images/s')}" for rate in row["rates"])
        share = result["share_of_roofline"].get(row["ours"])
        cells = [f"{say('JPEGs to faces')}, {row['ours']}", ours, row["theirs"], theirs]
        yield (
            row["table"],
            [*cells, number_text(row["ratio"]), EMPTY if share is None else number_text(share)],
        )


def _embedding_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    best: List[Tuple[str, Mapping[str, Any]]] = list(result.get("best", {}).items())
    # The first is the released file in ONNX Runtime, the reference of the others.
    rates = [
        f"{row['faces_per_second']:.0f}/s, {row['sessions']} x {row['batch']}" for _, row in best
    ]
    for (name, row), rate in zip(best[1:], rates[1:]):
        kind = "same" if "ONNX Runtime" in name else "backend"
        work = f"{say('aligned faces')}, {result['model']}, {name}"
        yield kind, [work, rate, best[0][0], rates[0], number_text(row["ratio"]), EMPTY]


def _latency_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    for picture in result.get("pictures", ()):
        ours, raw = (f"{ms:.1f} ms" for ms in (picture["ms"], result["session_ms"]))
        cells = [f"{say('one decoded image')}, {picture['holds']}", ours, "session.run", raw]
        yield "same", [*cells, number_text(1 / picture["ratio"]), EMPTY]


def _peer_notes(result: Mapping[str, Any], say: Say) -> List[str]:
    if not result:
        return []
    machine, versions = result["machine"], result["peers"]
    others = max((one for one in result["others"] if one is not None), default=None)
    session = ", ".join(f"{name} {value:.2f}" for name, value in result["session"]["ratio"].items())
    notes = [
        f"{len(result['photos'])} JPEG, {result['images']} {say('photos')}",
        f"{machine['cpu']}, {machine['cores']} cores, {result['threads']} threads",
        f"score {result['score']}, IoU {result['nms']}; {result['rounds']} rounds, medians",
        *(f"{name} {version}" for name, version in versions.items()),
        f"session.run: {session}",
    ]
    if others is not None:
        notes.append(f"others {100 * others:.1f} %")
    if result["void"]:
        notes.append(f"*{say('void: other processes were busy')}*")
    return ["; ".join(notes)]


def _scaling(result: Mapping[str, Any], say: Say) -> List[str]:
    if not result:
        return []
    rows = []
    for key, name in (("by_images", "photos"), ("by_workers", "workers")):
        for amount, one in result[key].items():
            rows.append([say(name), amount, one["images_per_second"], one["mib"]])
    for amount, both in result["by_megapixels"].items():
        for key, name in (("full", "megapixels"), ("fast_decode", "megapixels, --fast_decode")):
            rows.append([say(name), amount, both[key]["images_per_second"], both[key]["mib"]])
    cells = [[name, amount, f"{rate:.1f}", f"{mib:.0f}"] for name, amount, rate, mib in rows]
    head = (say("Work"), "", say("images/s"), say("peak memory, MiB"))
    return [say("By amount of work:"), markdown_table(head, cells, numbers=(1, 2, 3))]
