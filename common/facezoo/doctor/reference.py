"""Recorded outputs of the published weights for drawn images.

The images are computed with integers, so they are the same on every machine. The values are written
by ``facezoo doctor MODEL --model F --print-reference`` into the model's package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from ..files import write_json
from ..models import find_card

__all__ = [
    "distance_from",
    "drawn_pictures",
    "read_reference",
    "reference_file",
    "write_reference",
]


SCHEMA = "facezoo.reference/1"
SAMPLES = 24


def drawn_pictures() -> List[np.ndarray]:
    """Draw the images: coloured, uneven, of odd sizes; each (H, W, 3), uint8, RGB."""
    pictures = []
    for height, width in ((97, 131), (150, 111)):
        y, x = np.mgrid[:height, :width].astype(np.int64)
        far = (x - width // 2) ** 2 + (y - height // 3) ** 2
        planes = (255 - np.minimum(far // 12, 255), (3 * x + y) % 256, (x * y // 40) % 200)
        pictures.append(np.stack(planes, axis=2).astype(np.uint8))
    return pictures


def reference_file(card_id: str) -> Path:
    """Return the file of a card's recorded values, in the package of its model."""
    room = Path(__file__).parents[1] / "models" / find_card(card_id).model
    return room / "data" / "reference.json"


def read_reference(card_id: str, source_sha256: str) -> Optional[List[Dict[str, Any]]]:
    """Return the recorded values of one file of weights, one per image; None if there are none."""
    path = reference_file(card_id)
    if not path.is_file():
        return None
    entry = json.loads(path.read_text(encoding="utf-8"))["cards"].get(card_id, {})
    pictures: Optional[List[Dict[str, Any]]] = entry.get("pictures")
    return pictures if entry.get("source_sha256") == source_sha256 else None


def write_reference(
    card_id: str, source_sha256: str, outputs: List[Mapping[str, np.ndarray]]
) -> Path:
    """Record the network's outputs for the drawn images.

    Parameters
    ----------
    card_id, source_sha256
        Card, and hash of the weights.
    outputs
        One mapping per image.

    Returns
    -------
    Path
        The file that was written.
    """
    path = reference_file(card_id)
    known = json.loads(path.read_text(encoding="utf-8"))["cards"] if path.is_file() else {}
    pictures = [{name: _summary(array) for name, array in one.items()} for one in outputs]
    known[card_id] = {"source_sha256": source_sha256, "pictures": pictures}
    entry = {"schema": SCHEMA, "cards": dict(sorted(known.items()))}
    write_json(path, entry)
    return path


def _summary(array: np.ndarray) -> Dict[str, Any]:
    values = [float(f"{value:.6g}") for value in _samples(array).tolist()]
    return {"std": float(f"{float(array.std()):.6g}"), "size": int(array.size), "values": values}


def _samples(array: np.ndarray) -> np.ndarray:
    flat = np.asarray(array, np.float32).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)]


def distance_from(recorded: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> float:
    """Compare outputs with recorded ones.

    Parameters
    ----------
    recorded
        One image's entry.
    outputs
        Outputs of the network for it.

    Returns
    -------
    float
        Root mean square over the samples, as a share of each output's spread; infinite where an
        output is missing or of another size.
    """
    shares = []
    for name, entry in recorded.items():
        if name not in outputs or outputs[name].size != entry["size"]:
            return float("inf")
        gap = _samples(outputs[name]) - np.array(entry["values"], np.float32)
        shares.append(
            float(np.mean(np.square(gap, dtype=np.float64))) / max(entry["std"], 1e-9) ** 2
        )
    return float(np.sqrt(np.mean(shares)))
