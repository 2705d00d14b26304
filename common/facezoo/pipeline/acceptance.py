"""Which faces are accepted, and the reasons why the others are not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ..errors import InputError
from ..models.base import FaceModel
from ..profiles.appearance import Limits, default_limits
from ..profiles.quality import read_any_profile

__all__ = [
    "REASONS",
    "Gate",
    "ScoreLimit",
    "read_score_limit",
]


REASONS = ("too_small", "blurred", "turned", "cut_off", "low_quality")


@dataclass(frozen=True)
class ScoreLimit:
    """From where on a face is refused by a network's score, from a calibrated profile.

    Attributes
    ----------
    card
        Of the network; one of SDD-FIQA scores quality, one of MagFace by magnitude.
    model_sha256
        Of its file.
    threshold
        Faces that score less are refused.
    """

    card: str
    model_sha256: Any
    threshold: float


@dataclass(frozen=True)
class Gate:
    """What refuses a face.

    Attributes
    ----------
    looks
        Limits of size, sharpness, turn and cut; by default those that come with the package.
    scores
        Limits of networks' scores.
    embed_refused
        Embed refused faces, too.
    """

    looks: Limits = dataclasses.field(default_factory=default_limits)
    scores: Tuple[ScoreLimit, ...] = ()
    embed_refused: bool = False

    def by_looks(self, looks: Mapping[str, float]) -> List[str]:
        """Return the reasons that the looks give."""
        refused = {
            "too_small": looks["size"] < self.looks.min_size,
            "blurred": looks["sharpness"] < self.looks.min_sharpness,
            "turned": looks["turn"] > self.looks.max_turn,
            "cut_off": looks["cut_off"] > self.looks.max_cut_off,
        }
        return [name for name, is_so in refused.items() if is_so]

    def is_low(self, card: str, score: Optional[float]) -> bool:
        """Tell whether a network's score is below its limit."""
        limits = [limit.threshold for limit in self.scores if limit.card == card]
        return score is not None and any(score < limit for limit in limits)


def _check_limit(limit: ScoreLimit, stages: Sequence[FaceModel[Any]]) -> None:
    for stage in stages:
        if stage.contract.card_id == limit.card:
            if stage.settings().get("model_sha256") != limit.model_sha256:
                raise InputError(
                    f"the profile of {limit.card} was made with another file (sha256 "
                    f"{str(limit.model_sha256)[:12]}…); calibrate again with this one"
                )
            return
    raise InputError(f"a profile is of {limit.card}, which is no stage here; leave it out")


def read_score_limit(path: Path, name: str) -> ScoreLimit:
    """Read a threshold from a profile of ``facezoo calibrate quality``.

    Parameters
    ----------
    path
        The profile.
    name
        Of one of its thresholds, such as ``drop 5 %``.

    Raises
    ------
    InputError
        If it is no such profile, or has no threshold of that name.
    """
    profile = read_any_profile(path)
    if name not in profile.thresholds:
        known = sorted(profile.thresholds)
        raise InputError(f"{str(path)!r} has no threshold {name!r}; it has {known}")
    return ScoreLimit(profile.card, profile.model_sha256, profile.thresholds[name])
