"""Verification report of a set of pairs as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..datasets.templates import TemplateProtocol
from ..files import csv_cell
from ..metrics.pairs import k_fold_accuracy_of, pair_cosines
from ..metrics.verification import (
    FOLDS,
    OperatingPoint,
    RocCurve,
    Threshold,
    best_threshold,
    cosine_similarity,
    facenet_evaluation,
    k_fold_accuracy,
    operating_points,
    pool_templates,
    roc_curve,
    share_interval,
    tar_at_nearest_far,
)
from .measured import MeasuredList

__all__ = [
    "FMRS",
    "PROTOCOLS",
    "SCHEMA",
    "TemplateReport",
    "VerificationReport",
    "reports_csv",
    "verify_images",
    "verify_pairs",
    "verify_templates",
]


SCHEMA = "facezoo.verification/2"
FMRS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TEMPLATE_FMRS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PROTOCOLS = ("authors", "facenet")


@dataclass(frozen=True)
class VerificationReport:
    """Verification accuracy of a network on one set of pairs.

    Attributes
    ----------
    name
        Name of the set.
    measured
        What was measured.
    protocol
        ``authors`` (10 folds, mean subtracted, angle) or ``facenet`` (the vendor's).
    genuine, impostors
        Numbers of pairs.
    accuracies
        Shape (folds,), 0 to 1; higher is better.
    fold_thresholds
        Shape (folds,): the threshold chosen on the other folds, on the scale of the protocol: an
        angle in units of pi after subtracting the mean, or a squared distance.
    interval
        95 % interval of the share of correct decisions over all folds (Wilson's), which treats
        pairs as independent.
    threshold, best_accuracy
        The single cosine threshold with the most correct decisions; its accuracy is optimistic.
    points
        False non-match rates at false match rates, or the reason why there is none.
    roc
        The ROC curve.
    wrong
        Shape (N,), bool: pairs with a wrong decision in their fold.
    validation
        Only for the facenet protocol: share of genuine pairs that match at a false match rate of
        1e-3, its deviation over the folds, and the rate that was reached.
    """

    name: str
    measured: MeasuredList
    protocol: str
    genuine: int
    impostors: int
    accuracies: np.ndarray
    fold_thresholds: np.ndarray
    interval: Tuple[float, float]
    threshold: Threshold
    best_accuracy: float
    points: Tuple[OperatingPoint, ...]
    roc: RocCurve
    wrong: np.ndarray
    validation: Optional[Tuple[float, float, float]] = None

    @property
    def accuracy(self) -> float:
        """Mean over the folds, 0 to 1."""
        return float(np.mean(self.accuracies))

    def lines(self) -> List[str]:
        """Return the printed lines; the first two are in the authors' format."""
        low, high = self.interval
        t = self.threshold
        scales = f"cosine {t.cosine:.4f}, L2 {t.l2:.4f}, angle {t.degrees:.2f} degrees"
        pairs = f"{self.genuine} genuine and {self.impostors} impostor pairs"
        found = [
            f"evaluate {self.name}",
            f"    Accuracy: {self.accuracy:.5f}+-{float(np.std(self.accuracies)):.5f}",
            f"    95 % interval: {low:.5f} to {high:.5f}, over {pairs}",
            f"    area under the ROC: {self.roc.area:.5f}",
            f"    best threshold: {scales} (accuracy {self.best_accuracy:.5f} on these pairs)",
        ]
        if self.validation is not None:
            # The vendor's line, word for word.
            val, std, fmr = self.validation
            found.append(f"    Validation rate: {val:.5f}+-{std:.5f} @ FAR={fmr:.5f}")
        found += [f"    {_describe_point(point)}" for point in self.points]
        return [*found, f"    {self.measured.line()}"]

    def to_dict(self) -> Dict[str, Any]:
        """Return all fields except the curve as JSON values."""
        entry: Dict[str, Any] = {
            "name": self.name,
            "measured": self.measured.to_dict(),
            "protocol": self.protocol,
            "pairs": {"genuine": self.genuine, "impostor": self.impostors},
            "accuracy": {
                "mean": self.accuracy,
                "std": float(np.std(self.accuracies)),
                "interval_95": list(self.interval),
                "folds": self.accuracies.tolist(),
                "thresholds": self.fold_thresholds.tolist(),
            },
            "roc_area": self.roc.area,
            "best_threshold": {**_scales(self.threshold), "accuracy": self.best_accuracy},
            "operating_points": [_point_entry(point) for point in self.points],
        }
        if self.validation is not None:
            val, std, fmr = self.validation
            entry["validation_at_1e-3"] = {"fnmr": 1.0 - val, "fnmr_std": std, "fmr": fmr}
        return entry


def verify_pairs(
    name: str,
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    names: Sequence[str],
    *,
    protocol: str = "authors",
    folds: Union[int, np.ndarray] = FOLDS,
    found: Optional[np.ndarray] = None,
) -> VerificationReport:
    """Evaluate the embeddings of pairs.

    Parameters
    ----------
    name
        Of the set.
    first, second
        Shape (N, D), as returned by the network.
    is_same
        Shape (N,), bool.
    names
        Names of the images, for the report: 2i and 2i + 1 are pair i.
    protocol
        One of ``PROTOCOLS``; only the accuracy depends on it.
    folds, found
        See :func:`~facezoo.metrics.verification.k_fold_accuracy`. A pair without a face has the
        similarity -1.

    Returns
    -------
    VerificationReport
        At ``FMRS``.

    Raises
    ------
    InputError
        If the pairs cannot be evaluated; see
        :func:`~facezoo.metrics.verification.k_fold_accuracy`.
    """
    validation = None
    rows = slice(None) if found is None else np.flatnonzero(found)
    if protocol == "facenet":
        report = facenet_evaluation(
            _units(first), _units(second), is_same, folds=folds, found=found
        )
        validation = report.val, report.val_std, report.fmr
        wrong = report.false_positives | report.false_negatives
        by_fold = _ByFold(report.accuracies, report.thresholds, wrong)
    else:
        authors = k_fold_accuracy(first, second, is_same, folds=folds, found=found)
        by_fold = _ByFold(authors.accuracies, authors.thresholds, authors.wrong)
    cosines = np.full(len(is_same), -1.0)
    cosines[rows] = cosine_similarity(first[rows], second[rows])
    measured = MeasuredList.of_pairs(name, names, is_same.tolist())
    return _report(measured, protocol, by_fold, cosines, is_same, validation)


def verify_images(
    measured: MeasuredList,
    vectors: np.ndarray,
    pairs: np.ndarray,
    is_same: np.ndarray,
    folds: int = FOLDS,
) -> VerificationReport:
    """Evaluate pairs of images, of which there may be many more than images.

    Parameters
    ----------
    measured
        The images.
    vectors
        Shape (N, D), one per image, as returned by the network.
    pairs
        Shape (P, 2), int: the two images of each pair.
    is_same
        Shape (P,), bool.
    folds
        Number of folds of the accuracy.

    Returns
    -------
    VerificationReport
        By the authors' protocol, at ``FMRS``.

    Raises
    ------
    InputError
        If the pairs cannot be evaluated; see :func:`~facezoo.metrics.pairs.k_fold_accuracy_of`.
    """
    authors = k_fold_accuracy_of(vectors, pairs, is_same, folds=folds)
    by_fold = _ByFold(authors.accuracies, authors.thresholds, authors.wrong)
    return _report(measured, PROTOCOLS[0], by_fold, pair_cosines(vectors, pairs), is_same)


class _ByFold(NamedTuple):
    accuracies: np.ndarray
    thresholds: np.ndarray
    wrong: np.ndarray


def _report(
    measured: MeasuredList,
    protocol: str,
    by_fold: _ByFold,
    cosines: np.ndarray,
    is_same: np.ndarray,
    validation: Optional[Tuple[float, float, float]] = None,
) -> VerificationReport:
    threshold, best = best_threshold(cosines, is_same)
    genuine = int(np.count_nonzero(is_same))
    return VerificationReport(
        name=measured.name,
        measured=measured,
        protocol=protocol,
        genuine=genuine,
        impostors=len(is_same) - genuine,
        accuracies=by_fold.accuracies,
        fold_thresholds=by_fold.thresholds,
        interval=share_interval(float(np.mean(by_fold.accuracies)), len(is_same)),
        threshold=threshold,
        best_accuracy=best,
        points=tuple(operating_points(cosines, is_same, FMRS)),
        roc=roc_curve(cosines, is_same),
        wrong=by_fold.wrong,
        validation=validation,
    )


@dataclass(frozen=True)
class TemplateReport:
    """How well a network tells the templates of IJB-B or IJB-C apart.

    Attributes
    ----------
    measured
        The images of the templates.
    templates, pairs
        Their numbers.
    nearest
        True accept rate at the nearest point of the curve for each false match rate, as the
        authors take it.
    points
        False non-match rates at the same false match rates, or why there is none.
    roc
        Every operating point.
    """

    measured: MeasuredList
    templates: int
    pairs: int
    nearest: Tuple[float, ...]
    points: Tuple[OperatingPoint, ...]
    roc: RocCurve

    def lines(self) -> List[str]:
        """Return what is printed below the name of the set; the second line is the authors'."""
        return [
            f"{self.templates} templates, {self.pairs} pairs",
            "".join(f"  {tar:0.4f}" for tar in self.nearest),
            *(f"    {_describe_point(point)}" for point in self.points),
            f"    {self.measured.line()}",
        ]

    def rates(self) -> List[Dict[str, Any]]:
        """Return everything but the curve as JSON values, one entry per false match rate."""
        return [
            {**_point_entry(point), "nearest_tar": tar}
            for point, tar in zip(self.points, self.nearest)
        ]


def verify_templates(
    vectors: np.ndarray, protocol: TemplateProtocol, *, weighted: bool = False
) -> TemplateReport:
    """Join the features of each template and evaluate the pairs of templates.

    Parameters
    ----------
    vectors
        Shape (N, D), not normalised, in the order of the protocol's images.
    protocol
        Templates and pairs.
    weighted
        Let longer features count more in a template.

    Returns
    -------
    TemplateReport
        At ``TEMPLATE_FMRS``.
    """
    ids, pooled = pool_templates(vectors, protocol.templates, protocol.medias, weighted=weighted)
    cosines = pair_cosines(pooled, np.searchsorted(ids, protocol.pairs))
    roc = roc_curve(cosines, protocol.is_same)
    return TemplateReport(
        measured=MeasuredList.of(protocol.listed_in.name, "images", protocol.names),
        templates=len(ids),
        pairs=len(cosines),
        nearest=tuple(tar_at_nearest_far(roc, TEMPLATE_FMRS)),
        points=tuple(operating_points(cosines, protocol.is_same, TEMPLATE_FMRS)),
        roc=roc,
    )


def _units(vectors: np.ndarray) -> np.ndarray:
    # Rows of images without a face are zero and stay so.
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0.0, lengths, 1.0))


def reports_csv(reports: Sequence[VerificationReport]) -> str:
    """Return the sets as a table with one row per set and one column per operating point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fmrs = [point.fmr for point in reports[0].points]
    head = ["set", "protocol", "genuine", "impostors", "accuracy", "std", "low_95", "high_95"]
    writer.writerow([*head, "cosine", "l2", "degrees", *(f"fnmr_at_{fmr:g}" for fmr in fmrs)])
    for one in reports:
        t = one.threshold
        row = [csv_cell(one.name), one.protocol, one.genuine, one.impostors, one.accuracy]
        row += [float(np.std(one.accuracies)), *one.interval, t.cosine, t.l2, t.degrees]
        writer.writerow([*row, *(point.fnmr for point in one.points)])
    return text.getvalue()


def _describe_point(point: OperatingPoint) -> str:
    """Format an operating point, or the reason why there is none, as a line."""
    if point.threshold is None:
        return f"FNMR at FMR {point.fmr:g}: not measured, {point.refusal}"
    return (
        f"FNMR at FMR {point.fmr:g}: {point.fnmr:.5f} [{point.low:.5f}, {point.high:.5f}] at "
        f"cosine {point.threshold.cosine:.4f}"
    )


def _point_entry(point: OperatingPoint) -> Dict[str, Any]:
    """Return an operating point, or the reason why there is none, as JSON values."""
    entry: Dict[str, Any] = {"fmr": point.fmr, "impostors": point.impostors}
    if point.threshold is None:
        return {**entry, "refused": point.refusal}
    interval = [point.low, point.high]
    return {**entry, "fnmr": point.fnmr, "interval_95": interval, **_scales(point.threshold)}


def _scales(threshold: Threshold) -> Dict[str, float]:
    return {"cosine": threshold.cosine, "l2": threshold.l2, "degrees": threshold.degrees}
