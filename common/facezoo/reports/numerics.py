"""Reader and writer of a recipe's measured numbers: numerics.json and counts.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ..errors import UNREADABLE, InputError
from ..files import read_text, write_json
from ..models import CARDS

__all__ = [
    "Measurement",
    "Metric",
    "read_counts",
    "read_numerics",
    "record_measurement",
]


SCHEMA = "facezoo.numerics/1"
NUMERICS_FILE = "numerics.json"
COUNTS_FILE = "counts.json"
COUNTS_SCHEMA = "facezoo.counts/1"

BUILDS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes
    ----------
    value, unit
        The number, such as 90.97 in ``%``.
    higher_is_better
        Whether larger values are better.
    """

    value: float
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Measurement:
    """One entry of a numerics.json: a build of a card on a data set.

    Attributes
    ----------
    card, build, engine, dataset
        What was measured (``fp32``, ``fp16`` or ``int8``), runtime with version, data set.
    settings
        All settings that determine the numbers.
    metrics
        Name to number, in the order of the file.
    images_per_second
        Throughput from image file to result; None if not measured.
    machine, command
        Processor, and the command that reproduces the measurement.
    measured
        Name, unit, count, total and sha256 of the list it was measured on; empty in a file of an
        older version.
    """

    card: str
    build: str
    engine: str
    dataset: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    images_per_second: Optional[float]
    machine: str
    command: str
    measured: Mapping[str, Any]


def read_numerics(path: Path) -> List[Measurement]:
    """Read the measured numbers of a recipe.

    Parameters
    ----------
    path
        A numerics.json.

    Returns
    -------
    list of Measurement
        In the order of the file; empty if there is no file.

    Raises
    ------
    InputError
        If it does not match its schema, or names an unknown card or build.
    """
    if not path.exists():
        return []
    try:
        entry = json.loads(read_text(path))
        schema = entry["schema"]
        results = [_measurement(result) for result in entry["results"]]
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{str(path)!r} is not a numerics file ({reason}); measure again"
        ) from error
    if schema != SCHEMA:
        raise InputError(f"{str(path)!r} has schema {schema!r}; expected {SCHEMA!r}")
    for result in results:
        if result.card not in CARDS or result.build not in BUILDS:
            raise InputError(
                f"{str(path)!r} contains a result of {result.card!r}, build {result.build!r}; "
                f"expected a card's id and one of {', '.join(BUILDS)}"
            )
    return results


def read_counts(path: Path) -> Dict[str, Dict[str, Any]]:
    """Read the counts written by ``facezoo info --record``.

    Parameters
    ----------
    path
        A counts.json.

    Returns
    -------
    dict
        Card id to ``parameters``, ``macs`` and ``input_hw``; empty if there is no file.

    Raises
    ------
    InputError
        If it does not match its schema.
    """
    if not path.exists():
        return {}
    try:
        entry = json.loads(read_text(path))
        if entry["schema"] != COUNTS_SCHEMA:
            raise ValueError(f"its schema is {entry['schema']!r}")
        return dict(entry["cards"])
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} is not a counts file ({error}); count again") from error


def record_measurement(path: Path, measurement: Measurement) -> None:
    """Write a measurement to a numerics.json, replacing an older one of the same subject.

    Parameters
    ----------
    path
        The file; created if needed.
    measurement
        Its subject is card, build, runtime (of any version) and data set.
    """

    def key(one: Measurement) -> Sequence[Any]:
        cards, engine = list(CARDS), one.engine.split()[0]
        return (one.dataset, cards.index(one.card), engine, BUILDS.index(one.build))

    results = {tuple(key(one)): one for one in (*read_numerics(path), measurement)}
    entry = {"schema": SCHEMA, "results": [asdict(results[one]) for one in sorted(results)]}
    write_json(path, entry, indent=2)


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    rate = entry["images_per_second"]
    return Measurement(
        card=str(entry["card"]),
        build=str(entry["build"]),
        engine=str(entry["engine"]),
        dataset=str(entry["dataset"]),
        settings=dict(entry["settings"]),
        metrics={
            name: Metric(float(one["value"]), str(one["unit"]), bool(one["higher_is_better"]))
            for name, one in entry["metrics"].items()
        },
        images_per_second=None if rate is None else float(rate),
        machine=str(entry["machine"]),
        command=str(entry["command"]),
        measured=dict(entry.get("measured", {})),
    )
