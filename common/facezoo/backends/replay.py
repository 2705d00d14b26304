"""Replay backend: recorded outputs in place of a network, for tests and the npz routes."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..contract import Contract
from ..errors import BackendRunError
from ..image.resize import placement_of
from ..results import RawOutputs
from .base import Backend, Infer, Item, Result

__all__ = ["ReplayBackend"]


class ReplayBackend(Backend):
    """A backend that returns recorded arrays, one record per image, in recorded order.

    Parameters
    ----------
    records
        Output name to array (1, ...), one mapping per image.
    contract
        Contract of the recorded model, with the pre-processing that was used.
    """

    name = "replay"
    version = "1"
    device = "recorded"

    def __init__(self, records: Iterable[Mapping[str, np.ndarray]], contract: Contract) -> None:
        self._records = iter(records)
        self.contract = contract

    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Return the next record for each image."""
        rows = []
        for _ in images_rgb:
            record = next(self._records, None)
            if record is None:
                raise BackendRunError("there are more images than recorded outputs")
            rows.append(record)
        arrays = {
            name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]
        }
        placements = tuple(
            placement_of((image.shape[0], image.shape[1]), self.preprocess) for image in images_rgb
        )
        return RawOutputs(arrays, placements)

    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Replay one record per image, in the caller's thread."""
        for item in items:
            yield function(self.infer, item)
