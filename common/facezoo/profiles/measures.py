"""The measures of a face that have limits; without NumPy, since the help lists them."""

from __future__ import annotations

from typing import Mapping, NamedTuple

from ..fields import Number, number

__all__ = ["MEASURES", "Measure"]


class Measure(NamedTuple):
    """A measure of a face: its field of AppearanceLimits, its range, whether higher is better."""

    limit: str
    range: Number
    more_is_better: bool


MEASURES: Mapping[str, Measure] = {
    "size": Measure("min_size", number(0, 65535), True),
    # The Laplacian of 8-bit values is from -1020 to 1020.
    "sharpness": Measure("min_sharpness", number(0, 1020**2), True),
    "yaw": Measure("max_yaw", number(0, 10), False),
    "truncation": Measure("max_truncation", number(0, 1), False),
}
