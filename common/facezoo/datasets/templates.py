"""Template protocols of IJB-B and IJB-C in the layout of MagFace's authors.

::

    meta/ijbc_face_tid_mid.txt          image template medium, in the order of the features
    meta/ijbc_template_pair_label.txt   template template label
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from ..errors import DatasetError
from .image_list import check_names, read_lines
from .pairs import read_feature_list

__all__ = ["TemplateProtocol", "read_template_features", "read_template_protocol"]


@dataclass(frozen=True)
class TemplateProtocol:
    """Templates and the pairs of them to compare.

    Attributes
    ----------
    names
        Names of the images.
    templates, medias
        Shape (N,), int64: template and medium of each image.
    pairs
        Shape (P, 2), int64: templates of each pair.
    is_same
        Shape (P,), bool.
    listed_in
        The list of the images.
    """

    names: Tuple[str, ...]
    templates: np.ndarray
    medias: np.ndarray
    pairs: np.ndarray
    is_same: np.ndarray
    listed_in: Path


def read_template_protocol(folder: Path, kind: str) -> TemplateProtocol:
    """Read the two lists of a set.

    Parameters
    ----------
    folder
        Folder that contains ``meta``.
    kind
        ``b`` or ``c``.

    Raises
    ------
    DatasetError
        If a list cannot be read, a line has other columns, or a pair refers to a template without
        images; names the line.
    """
    meta = Path(folder) / "meta"
    images = meta / f"ijb{kind}_face_tid_mid.txt"
    names, numbers = _read(images, named=True)
    pair_list = meta / f"ijb{kind}_template_pair_label.txt"
    _, pairs = _read(pair_list, named=False)
    wrong = np.flatnonzero(~np.isin(pairs[:, 2], (0, 1)))
    if len(wrong):
        raise DatasetError(
            f"{str(pair_list)!r}: line {wrong[0] + 1} ends with {pairs[wrong[0], 2]}; expected 1 "
            "for one person, 0 for two"
        )
    unknown = np.flatnonzero(~np.isin(pairs[:, :2], numbers[:, 0]).all(axis=1))
    if len(unknown):
        raise DatasetError(
            f"{str(pair_list)!r}: line {unknown[0] + 1} names a template without images: "
            f"{pairs[unknown[0], :2].tolist()}"
        )
    return TemplateProtocol(
        tuple(names), numbers[:, 0], numbers[:, 1], pairs[:, :2], pairs[:, 2] == 1, images
    )


def read_template_features(
    feature_list: Path, protocol: TemplateProtocol, size: Optional[int] = None
) -> np.ndarray:
    """Read the features of the images of a protocol.

    Parameters
    ----------
    feature_list
        One line per image, in the order of the protocol.
    protocol
        Its names are compared with those of the features.
    size
        As for :func:`~facezoo.datasets.pairs.read_feature_list`.

    Returns
    -------
    numpy.ndarray
        Shape (N, D), float64, not normalised.

    Raises
    ------
    DatasetError
        If the list cannot be read, has another number of features, or one of another image.
    """
    features = read_feature_list(feature_list, size)
    if len(features.names) != len(protocol.names):
        raise DatasetError(
            f"{str(feature_list)!r} has {len(features.names)} features, "
            f"{str(protocol.listed_in)!r} {len(protocol.names)} images; expected one each, in the "
            "same order"
        )
    check_names(features.names, protocol.names, feature_list, protocol.listed_in)
    return features.vectors


def _read(path: Path, named: bool) -> Tuple[List[str], np.ndarray]:
    """Read lines of integers, two after a name or three without a name."""
    names: List[str] = []
    numbers = array("q")
    columns = 2 if named else 3
    for number, line in read_lines(path):
        words = line.split()
        fields = words[-columns:]
        if len(words) != columns + named or not all(
            field.isascii() and field.isdigit() and len(field) < 19 for field in fields
        ):
            raise DatasetError(
                f"{str(path)!r}: line {number} is {line[:80]!r}; expected "
                f"{'an image, a template and a medium' if named else 'two templates and a label'}"
            )
        names += words[:1] * named
        numbers.extend(map(int, fields))
    return names, np.array(numbers, dtype=np.int64).reshape(-1, columns)
