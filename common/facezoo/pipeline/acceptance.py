"""Which faces are accepted, and the reasons why the others are not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ..errors import InputError
from ..models.base import FaceModel
from ..profiles.appearance import AppearanceLimits, default_limits
from ..profiles.base import check_model
from ..profiles.quality import read_quality

__all__ = [
    "REASONS",
    "Acceptance",
    "ScoreLimit",
    "read_score_limit",
]


REASONS = ("too_small", "blurred", "turned", "cut_off", "upside_down", "low_quality")


@dataclass(frozen=True)
class ScoreLimit:
    """Lowest accepted score of a network, from a calibrated profile.

    Attributes
    ----------
    card
        Card of the model: SDD-FIQA's score, or the magnitude of MagFace's embedding.
    model_sha256
        Hash of its file.
    threshold
        Faces that score less are refused.
    """

    card: str
    model_sha256: Any
    threshold: float


@dataclass(frozen=True)
class Acceptance:
    """Limits that a face must meet to be accepted.

    Attributes
    ----------
    appearance
        Limits of size, sharpness, yaw and truncation; by default those of the package.
    scores
        Limits of networks' scores.
    embed_refused
        Embed refused faces, too.
    """

    appearance: AppearanceLimits = dataclasses.field(default_factory=default_limits)
    scores: Tuple[ScoreLimit, ...] = ()
    embed_refused: bool = False

    def reasons_of(self, appearance: Mapping[str, float]) -> List[str]:
        """Return the reasons to refuse a face by its size, sharpness, yaw and truncation."""
        refused = {
            "too_small": appearance["size"] < self.appearance.min_size,
            "blurred": appearance["sharpness"] < self.appearance.min_sharpness,
            "turned": appearance["yaw"] > self.appearance.max_yaw,
            "cut_off": appearance["truncation"] > self.appearance.max_truncation,
        }
        return [name for name, is_so in refused.items() if is_so]

    def is_low(self, card: str, score: Optional[float]) -> bool:
        """Tell whether a network's score is below its limit."""
        limits = [limit.threshold for limit in self.scores if limit.card == card]
        return score is not None and any(score < limit for limit in limits)


def _check_limit(limit: ScoreLimit, stages: Sequence[FaceModel[Any]]) -> None:
    for stage in stages:
        if stage.contract.card_id == limit.card:
            sha256 = stage.settings().get("model_sha256")
            check_model("a quality profile", "quality", limit, sha256)
            return
    raise InputError(
        f"a quality profile was made for {limit.card}, which is not a stage here; leave it out"
    )


def read_score_limit(path: Path, name: str) -> ScoreLimit:
    """Read a threshold from a profile of ``facezoo calibrate quality``.

    Parameters
    ----------
    path
        The profile.
    name
        Name of one of its thresholds, such as ``drop 5 %``.

    Raises
    ------
    InputError
        If it is not such a profile, or has no threshold of that name.
    """
    profile = read_quality(path)
    if name not in profile.thresholds:
        known = sorted(profile.thresholds)
        raise InputError(f"{str(path)!r} has no threshold {name!r}; it has {known}")
    return ScoreLimit(profile.card, profile.model_sha256, profile.thresholds[name])
