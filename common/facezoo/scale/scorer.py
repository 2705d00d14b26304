"""What every process of a bulk run does: open the models once, then score part after part."""

from __future__ import annotations

import faulthandler
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple, Union

from ..backends.base import naming
from ..errors import FaceZooError, ImageError, InputError
from ..image.decode import decode_image_rgb
from ..pipeline.photo import PredictedPhoto, Predictor
from ..runs import reason_of
from ..workers import map_in_order
from .addresses import Found, is_remote, join, read_bytes, stat_of
from .work import Part, Receipt, Scores

__all__ = ["BulkJob", "Scorer"]

# Photos are read ahead, so that the processor does not wait; an object store answers slowly.
READERS, REMOTE_READERS = 2, 8
STDERR = 2  # by its number: a stream may have been replaced or closed


class _Changed(ImageError):
    """A photo is not what it was when the manifest was written."""


@dataclass(frozen=True)
class BulkJob:
    """What a process needs to start; it can be pickled.

    Attributes
    ----------
    run, identity
        See :class:`~facezoo.scale.work.Scores`.
    model
        The chain, pickled: it is opened where it arrives.
    seconds
        A photo that takes longer ends the process.
    """

    run: Path
    identity: str
    model: bytes
    seconds: float

    def open(self) -> Scorer:
        """Open the models; call it once per process.

        Raises
        ------
        FaceZooError
            If a model cannot be opened here, or is another one than where the run was started.
        """
        return Scorer(self, pickle.loads(self.model))


class Scorer:
    """Scores parts with models that stay open.

    Parameters
    ----------
    job
        The job.
    model
        The chain, on one core.
    """

    def __init__(self, job: BulkJob, model: Predictor) -> None:
        import cv2

        # Every core has a process of its own.
        cv2.setNumThreads(1)
        self._scores = Scores(job.run, job.identity)
        self._model, self._seconds = model, job.seconds
        if not self._scores.is_for(model.settings()):
            raise InputError(
                "the models, runtimes or facezoo of this machine are not those of the machine "
                "that started the run; install the same and run the same command again"
            )

    def score(self, part: Part) -> Union[Receipt, Exception]:
        """Score a part and write it; return its receipt, or the error that ends the run."""
        try:
            return self._scores.write(part, self._photos(part))
        except (FaceZooError, OSError) as error:
            return error
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _photos(self, part: Part) -> Iterator[Tuple[Dict[str, Any], Optional[int], Optional[str]]]:
        rows = self._scores.rows(part)
        root = self._scores.manifest.root
        readers = REMOTE_READERS if is_remote(root or rows[0].photo) else READERS
        self._watch()
        for row, data in zip(rows, map_in_order(partial(self.read, root), rows, readers)):
            entry: Dict[str, Any] = {"path": row.photo}
            size, status = row.size, None
            try:
                if isinstance(data, ImageError):
                    raise data
                size = len(data)
                entry.update(self.predict(data, join(root, row.photo)).to_dict())
            except ImageError as error:
                entry["error"] = reason_of(error)
                status = "changed" if isinstance(error, _Changed) else None
            yield entry, size, status
            self._watch()

    def _watch(self) -> None:
        """End the process if the next photo takes too long, also if a runtime hangs in C."""
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=STDERR)

    @staticmethod
    def read(root: str, row: Found) -> Union[bytes, ImageError]:
        """Read a photo; return why it cannot be read, or is not the one of the manifest."""
        address = join(root, row.photo)
        try:
            data = read_bytes(address)
            now = Found(row.photo, len(data), row.mtime, row.etag)
            if row.mtime is not None and not is_remote(address):
                now = now._replace(mtime=stat_of(address).mtime)
            if row.size is not None and now != row:
                raise _Changed(f"{address!r} has changed since the manifest was written")
            return data
        except ImageError as error:
            return error

    def predict(self, data: bytes, address: str) -> PredictedPhoto:
        """Apply the chain to an encoded photo, on one core, as ``facezoo predict`` does."""
        image = decode_image_rgb(data, address)
        with naming(address):
            (photo,) = self._model.batch([image], shared=True)
        return photo
