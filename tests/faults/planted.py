"""A decoder that fails as a broken library does, planted into the processes of a bulk run.

A photo says what happens when it is decoded: with ``ABORT`` in its bytes it ends the process, with
``HANG`` it never comes back, with ``WAIT`` it takes a moment. Each photo that was decoded adds a
byte to a file.
"""

import base64
import os
import pickle
import time
from pathlib import Path

from facezoo.image import decode as files
from facezoo.scale.scorer import Scorer

SECONDS = 0.05


def plant(model, log):
    """Open a pickled chain in a process whose decoder has the faults."""
    decode = files._decode

    def decode_with_faults(data, *rest):
        if b"ABORT" in data:
            os.abort()
        if b"HANG" in data:
            time.sleep(3600)
        if b"WAIT" in data:
            time.sleep(SECONDS)
        with Path(log).open("ab") as file:
            file.write(b".")
        return decode(data, *rest)

    files._decode = decode_with_faults
    return pickle.loads(model)


class Planted:
    """Pickles as a chain that is opened by :func:`plant`."""

    def __init__(self, model, log):
        self._model, self._log = model, log

    def __reduce__(self):
        return plant, (self._model, self._log)


def in_job(job, log):
    """Return a job whose processes have the faulty decoder."""
    return type(job)(job.run, job.identity, pickle.dumps(Planted(job.model, str(log))), job.seconds)


FACE = {
    "box_xyxy": [10.0, 20.0, 110.0, 120.0],
    "score": 0.9,
    "landmarks_xy": [[30.0, 50.0]] * 5,
    "reasons": [],
    "vector": base64.b64encode(bytes(4 * 512)).decode(),
}


class Stub:
    """A chain without networks: every photo has one face, and none is read."""

    def settings(self):
        return {"detector": {"model": "stub"}}

    def to_dict(self):
        return {"width": 640, "height": 480, "faces": [FACE]}

    def __reduce__(self):
        return stub, ()


def stub():
    """Let a process score photos that do not exist."""
    Scorer.read = staticmethod(lambda root, row: b"photo")
    Scorer.predict = lambda self, data, address: self._model
    return Stub()
