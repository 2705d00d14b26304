"""Speed tables from the result files of benchmarks, the machines side by side.

A folder below ``tests/benchmarks/results`` holds what one machine measured: ``machine.json`` says
which, the others have the names of the benchmarks.
"""

from __future__ import annotations

__all__ = [
    "benchmark_text",
    "builds_table",
    "install_table",
    "speed_tables",
]

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

from ..errors import InputError
from .tables import Say, markdown_table, merged, number_text

BENCHMARKS = Path("tests", "benchmarks", "results")
# Sums of two other types, measured for comparison; no build has them.
NO_BUILD = "int8, s8/s8"

# What identifies a row, and its cell for one machine.
Column = Dict[Tuple[str, ...], str]


@dataclass(frozen=True)
class Machine:
    """A machine that measured, and its folder of results.

    Attributes
    ----------
    folder
        Folder of its result files.
    cpu, instruction_sets, cores
        See :func:`facezoo.machine.describe_machine`.
    """

    folder: Path
    cpu: str
    instruction_sets: Tuple[str, ...]
    cores: int

    def label(self, say: Say, every: bool = False) -> str:
        """Name the machine, with its widest or every instruction set."""
        sets = self.instruction_sets if every else self.instruction_sets[-1:]
        return ", ".join((self.cpu, *sets, f"{self.cores} {say('cores')}"))

    def without(self, key: Sequence[str], say: Say) -> str:
        """Return what stands in the cell of a row that it has not measured."""
        asks = any("bf16" in cell for cell in key)
        return say("no bf16" if asks and "BF16" not in self.instruction_sets else "not measured")

    def read(self, name: str) -> Dict[str, Any]:
        """Read what a benchmark measured; {} if it did not run here."""
        path = self.folder / f"{name}.json"
        return _read_json(path) if path.exists() else {}


def speed_tables(root: Path, say: Say) -> str:
    """Format the benchmark results; the two kinds of comparison are kept separate."""
    machines = _machines(root)
    work, both = (say("Work"), say("against")), f"{say('times')} ({say('ours')} : {say('theirs')})"
    parts: List[str] = []
    with _another_form(root):
        for table, title in (
            ("same", "Same runtime, same precision:"),
            ("backend", "What choosing the backend buys:"),
        ):
            columns = [_ratios(machine, table, say) for machine in machines]
            parts += _side_by_side(f"{say(title)} {both}", work, machines, columns, say)
        parts += _side_by_side(
            say("Share of the roofline:"), work[:1], machines, map(_rooflines, machines), say
        )
        amounts = f"{say('By amount of work:')} {say('images/s')} ({say('peak memory, MiB')})"
        scaling = [_scaling(machine.read("scaling"), say) for machine in machines]
        parts += _side_by_side(amounts, (work[0], ""), machines, scaling, say)
        quotas = [_quotas(machine.read("quota"), say) for machine in machines]
        title = say("Told of 64 cores with a quota of 2, against one that sees 2: times")
        parts += _side_by_side(title, (say("Engine"), ""), machines, quotas, say)
        parts += ["\n".join(_notes(machine, say)) for machine in machines if parts]
    return "\n\n".join(parts) or say("not measured")


def builds_table(root: Path, say: Say) -> str:
    """Format how long each build takes for an image, and which is the fastest on which machine."""
    machines = _machines(root)
    columns: List[Column] = []
    with _another_form(root):
        for machine in machines:
            column: Column = {}
            for model, entry in machine.read("int8").get("times", {}).items():
                times = {k: v for k, v in entry["milliseconds"].items() if k != NO_BUILD}
                column.update({(model, build): f"{ms:.1f}" for build, ms in times.items()})
                column[model, f"**{say('choose')}**"] = f"**{min(times, key=times.__getitem__)}**"
            columns.append(column)
    head = (say("Model"), say("Build"))
    parts = _side_by_side("", head, machines, columns, say)
    return parts[-1] if parts else say("not measured")


def benchmark_text(root: Path, name: str, say: Say) -> str:
    """Show the text that a benchmark wrote on each machine."""
    parts = []
    for machine in _machines(root):
        path = machine.folder / f"{name}.txt"
        if path.exists():
            shown = f"{machine.label(say)}:\n\n```text\n{path.read_text('utf-8').rstrip()}\n```"
        else:
            shown = f"{machine.label(say)}: {say('not measured')}"
        # What was measured comes before what was not.
        parts.append((not path.exists(), shown))
    return "\n\n".join(shown for _, shown in sorted(parts)) or say("not measured")


def install_table(root: Path, say: Say) -> str:
    """Format what installing in new environments took, and how much a command does at its start."""
    head = ("Python", "with", "load", "installed in, s", "MB with all packages", "main jobs, s")
    parts = []
    with _another_form(root):
        for machine in _machines(root):
            result = machine.read("install")
            if not result:
                continue
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
            heads = [*map(say, head), *(f"`{name}`, s" for name in starts)]
            parts.append(markdown_table(heads, rows, numbers=range(2, len(heads))))
            note = say("load: processes waiting for a core; the last columns are processor time")
            parts.append(f"{machine.label(say)}; {result['wheel']}; {note}")
    return "\n\n".join(parts) or say("not measured")


def _machines(root: Path) -> List[Machine]:
    found = []
    for path in sorted((root / BENCHMARKS).glob("*/machine.json")):
        entry = _read_json(path)
        with _another_form(path):
            sets = tuple(entry["instruction_sets"])
            found.append(Machine(path.parent, entry["cpu"], sets, entry["cores"]))
    return found


@contextmanager
def _another_form(where: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError) as error:
        path = str(where if where.is_file() else where / BENCHMARKS)
        raise InputError(
            f"a result in {path!r} has another form ({error!r}); run it again"
        ) from error


def _read_json(path: Path) -> Dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a benchmark result ({error})") from error


def _side_by_side(
    title: str,
    head: Sequence[str],
    machines: Sequence[Machine],
    columns: Iterable[Column],
    say: Say,
) -> List[str]:
    """Return a title and a table, a column for each machine that has a row; nothing if none has."""
    columns = list(columns)
    keys = merged(columns)
    if not keys:
        return []
    machines = [machine for machine, one in zip(machines, columns) if one]
    columns = [one for one in columns if one]
    # Rows with the same first cell stay together if another machine has more of them.
    firsts = merged([[key[0] for key in keys]])
    keys.sort(key=lambda key: firsts.index(key[0]))
    rows = [
        [
            *key,
            *(one.get(key, machine.without(key, say)) for machine, one in zip(machines, columns)),
        ]
        for key in keys
    ]
    heads = [*head, *(machine.label(say) for machine in machines)]
    return [title, markdown_table(heads, rows, numbers=range(len(head), len(heads)))]


def _ratios(machine: Machine, table: str, say: Say) -> Column:
    rows = [
        *_peer_rows(machine.read("peers"), say),
        *_chain_rows(machine.read("chain"), say),
        *_wider_rows(machine.read("widerface_val"), say),
        *_embedding_rows(machine.read("embedding"), say),
        *_latency_rows(machine.read("latency"), say),
    ]
    return {
        (work, against): f"{number_text(ratio)} ({ours} : {theirs})"
        for kind, work, against, ratio, ours, theirs in rows
        if kind == table
    }


_Row = Tuple[str, str, str, float, str, str]


def _peer_rows(result: Mapping[str, Any], say: Say) -> Iterator[_Row]:
    for row in result.get("rows", ()):
        ours, theirs = (f"{rate:.1f}" for rate in row["rates"])
        work = f"{say('JPEGs to faces')}, {row['ours']}"
        yield row["table"], work, row["theirs"], row["ratio"], ours, f"{theirs} {say('images/s')}"


def _chain_rows(result: Mapping[str, Any], say: Say) -> Iterator[_Row]:
    for crowd, measured in result.get("crowds", {}).items():
        for ours, ratios in measured["times the rate of"].items():
            for theirs, ratio in ratios.items():
                rates = (f"{measured['photos/s'][name]:.1f}" for name in (ours, theirs))
                _, _, how = ours.partition(", ")
                work = f"{say('JPEGs to embeddings')}, {crowd}{', ' * bool(how)}{how}"
                our_rate, their_rate = rates
                kind = "backend" if how else "same"
                row = (f"{theirs} fp32", ratio["times"], our_rate)
                yield (kind, work, *row, f"{their_rate} {say('images/s')}")


def _wider_rows(result: Mapping[str, Any], say: Say) -> Iterator[_Row]:
    seconds = result.get("seconds", {})
    for way, ratio in result.get("times the rate of insightface", {}).items():
        kind = "same" if way == "ONNX Runtime fp32" else "backend"
        work = f"{say('WIDER FACE val to three APs, as a process')}, {way}"
        theirs = "insightface fp32"
        yield kind, work, theirs, ratio, f"{seconds[way]:.0f}", f"{seconds[theirs]:.0f} s"


def _embedding_rows(result: Mapping[str, Any], say: Say) -> Iterator[_Row]:
    best: List[Tuple[str, Mapping[str, Any]]] = list(result.get("best", {}).items())
    # The first is the released file in ONNX Runtime, the reference of the others.
    rates = [
        f"{row['faces_per_second']:.0f}/s, {row['sessions']} x {row['batch']}" for _, row in best
    ]
    for (name, row), rate in zip(best[1:], rates[1:]):
        kind = "same" if "ONNX Runtime" in name else "backend"
        work = f"{say('aligned faces')}, {result['model']}, {name}"
        yield kind, work, best[0][0], row["ratio"], rate, rates[0]


def _latency_rows(result: Mapping[str, Any], say: Say) -> Iterator[_Row]:
    for picture in result.get("pictures", ()):
        ours, raw = (f"{ms:.1f}" for ms in (picture["ms"], result["session_ms"]))
        work = f"{say('one decoded image')}, {picture['holds']}"
        yield "same", work, "session.run", 1 / picture["ratio"], ours, f"{raw} ms"


def _rooflines(machine: Machine) -> Column:
    shares = machine.read("peers").get("share_of_roofline", {})
    return {(name,): number_text(share) for name, share in shares.items()}


def _notes(machine: Machine, say: Say) -> List[str]:
    notes = [machine.label(say, every=True)]
    result = machine.read("peers")
    if not result:
        return notes
    others = max((one for one in result["others"] if one is not None), default=None)
    session = ", ".join(f"{name} {value:.2f}" for name, value in result["session"]["ratio"].items())
    notes += [
        f"{len(result['photos'])} JPEG, {result['images']} {say('photos')}",
        f"{result['threads']} threads",
        f"score {result['score']}, IoU {result['nms']}; {result['rounds']} rounds, medians",
        *(f"{name} {version}" for name, version in result["peers"].items()),
        f"session.run: {session}",
    ]
    if others is not None:
        notes.append(f"others {100 * others:.1f} %")
    if result["void"]:
        notes.append(f"*{say('void: other processes were busy')}*")
    return ["; ".join(notes)]


def _scaling(result: Mapping[str, Any], say: Say) -> Column:
    rows: List[Tuple[str, str, Mapping[str, float]]] = []
    for key, name in (("by_images", "photos"), ("by_workers", "workers")):
        rows += [(name, amount, one) for amount, one in result.get(key, {}).items()]
    for amount, both in result.get("by_megapixels", {}).items():
        rows.append(("megapixels", amount, both["full"]))
        rows.append(("megapixels, --fast_decode", amount, both["fast_decode"]))
    return {
        (say(name), amount): f"{one['images_per_second']:.1f} ({one['mib']:.0f})"
        for name, amount, one in rows
    }


def _quotas(result: Mapping[str, Any], say: Say) -> Column:
    column: Column = {}
    for engine, sides in result.get("predict", {}).items():
        ratios = sides["told of 64, quota 2"]
        names = {"seconds": "time", "cpu_seconds": "processor time", "mib": "peak memory"}
        for name, what in names.items():
            column[engine, say(what)] = number_text(ratios[f"{name}_ratio"])
    return column
