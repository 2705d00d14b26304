"""Plots of evaluation reports; needs matplotlib from the extra ``plot``."""

from __future__ import annotations

import io
from itertools import cycle
from pathlib import Path
from typing import Any, Collection, Iterator, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from ..errors import BackendUnavailable, InputError
from ..evaluation.quality import Response
from ..files import write_bytes
from ..image.degrade import DEGRADATIONS
from ..metrics.detection import DetectionReport
from ..metrics.landmarks import FAILURE_THRESHOLD, cumulative_error_distribution
from ..metrics.quality import DiscardCurve
from ..metrics.verification import RocCurve

__all__ = [
    "check_plot",
    "plot_cumulative_errors",
    "plot_discard_curves",
    "plot_lengths",
    "plot_losses",
    "plot_magnitudes",
    "plot_precision_recall",
    "plot_reject_curves",
    "plot_responses",
    "plot_roc",
    "plot_sensitivity",
]


# Colours of Okabe and Ito, which are distinguishable with any colour vision, and line styles for
# print without colour: 28 pairs before one comes again.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933")
DASHES = ("-", "--", "-.", ":")

Curve = TypeVar("Curve")


def _styled(curves: Mapping[str, Curve]) -> Iterator[Tuple[str, Curve, str, str]]:
    """Yield name, curve, colour and line style of every curve."""
    for (name, curve), colour, dashes in zip(curves.items(), cycle(COLOURS), cycle(DASHES)):
        yield name, curve, colour, dashes


def plot_precision_recall(report: DetectionReport, path: Path) -> None:
    """Draw the precision-recall curve of each level, with its average precision in the legend.

    Parameters
    ----------
    report
        Result of :func:`facezoo.metrics.detection.evaluate_detections`.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 4.5))
    for level, result, colour, dashes in _styled(report.levels):
        # Precision is undefined before the first detection.
        seen = result.recall > 0
        axes.plot(
            result.recall[seen],
            result.precision[seen],
            color=colour,
            linestyle=dashes,
            # Mark the end: a curve that ends early was cut by a score threshold.
            marker="o",
            markersize=4,
            markevery=slice(-1, None),
            label=f"{level.capitalize()}: AP {100 * result.ap:.2f} %",
        )
    axes.set(
        title=f"WIDER FACE, {report.images} photos, IoU {report.iou_threshold:g}",
        xlabel="recall: share of faces found",
        ylabel="precision: share of boxes that are faces",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    axes.legend(loc="lower left")
    _finish(figure, path)


def plot_cumulative_errors(errors: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw cumulative error distributions (CED), with area and failure rate in the legend.

    Parameters
    ----------
    errors
        Name of each curve to the errors of its faces, (M,).
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported, or a curve has no faces.
    """
    figure, axes = _new_figure((6.0, 4.5))
    for name, values, colour, dashes in _styled(errors):
        curve = cumulative_error_distribution(values)
        area = 100 * curve.area(FAILURE_THRESHOLD)
        axes.plot(
            100 * curve.errors,
            100 * curve.shares,
            color=colour,
            linestyle=dashes,
            label=f"{name}, {len(values)} faces: area {area:.1f} %, "
            f"failures {100 * curve.failure_rate:.1f} %",
        )
    axes.set(
        title="Cumulative error distribution",
        xlabel="normalised mean error in %",
        ylabel="faces with at most that error in %",
        xlim=(0, 100 * FAILURE_THRESHOLD),
        ylim=(0, 101),
    )
    figure.legend(loc="outside lower center")
    _finish(figure, path)


def plot_sensitivity(
    errors: Mapping[str, float], path: Path, model: str, proposed: Collection[str]
) -> None:
    """Draw the loss from quantising each layer alone, one bar per layer.

    Parameters
    ----------
    errors
        Layer to the share of output variance lost, in graph order.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).
    model
        Name of the network, for the title.
    proposed
        The layers that are proposed to stay in float; their bars get another colour.

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((max(6.0, 0.14 * len(errors)), 3.5))
    for label, chosen, colour in (
        ("int8", False, COLOURS[0]),
        (f"proposed to stay in float: {len(proposed)}", True, COLOURS[1]),
    ):
        bars = {
            index: 100 * error
            for index, (name, error) in enumerate(errors.items())
            if (name in proposed) == chosen
        }
        axes.bar(list(bars), list(bars.values()), color=colour, label=label)
    axes.set_xticks(range(len(errors)), list(errors), rotation=90, fontsize=6)
    for tick, name in zip(axes.get_xticklabels(), errors):
        if name in proposed:
            tick.set(color=COLOURS[1], fontweight="bold")
    axes.legend()
    axes.set(
        title=f"{model}: each layer in int8 alone",
        ylabel="output variance lost, %",
        xlim=(-1, len(errors)),
    )
    axes.set_axisbelow(True)
    _finish(figure, path, grid="y")


def plot_roc(curves: Mapping[str, RocCurve], path: Path) -> None:
    """Draw receiver operating characteristics, false match rates on a logarithmic axis.

    Parameters
    ----------
    curves
        Name of each set to its curve.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 4.5))
    lowest = bottom = 1.0
    for name, curve, colour, dashes in _styled(curves):
        seen = curve.fmr > 0
        lowest = min(lowest, float(curve.fmr[seen].min()))
        bottom = min(bottom, float(curve.matched[seen].min()))
        label = f"{name}: area {curve.area:.5f}"
        axes.step(
            curve.fmr[seen],
            curve.matched[seen],
            color=colour,
            linestyle=dashes,
            label=label,
            where="post",
        )
    axes.set(
        title="Verification",
        xlabel="false match rate: share of impostor pairs that match",
        ylabel="1 - false non-match rate: share of genuine pairs that match",
        xscale="log",
        xlim=(lowest, 1),
        # Only the range that the curves need: good ones differ near 1 only.
        ylim=(max(0.0, 1.0 - 1.5 * (1.0 - bottom) - 0.01), 1.0 + 0.02 * (1.0 - bottom) + 0.001),
    )
    axes.legend(loc="lower right")
    _finish(figure, path)


def plot_magnitudes(magnitudes: np.ndarray, path: Path, name: str = "magnitude") -> None:
    """Draw a histogram of magnitudes, or of quality on another scale.

    Parameters
    ----------
    magnitudes
        Shape (N,).
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).
    name
        Name of the scale.

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 4.0))
    axes.hist(magnitudes, bins="auto", color=COLOURS[0], edgecolor="white", linewidth=0.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_axisbelow(True)
    axes.set(
        title=f"{len(magnitudes)} faces, median {np.median(magnitudes):.2f}",
        xlabel=f"{name}; higher is better",
        ylabel="faces",
    )
    _finish(figure, path, grid="y")


def plot_reject_curves(
    curves: Mapping[str, Tuple[np.ndarray, np.ndarray]],
    path: Path,
    fmr: float,
    band: Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]] = None,
) -> None:
    """Draw errors against the share of discarded pairs, lowest quality first.

    Parameters
    ----------
    curves
        Name of each to discarded shares and false non-match rates.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).
    fmr
        False match rate of the threshold.
    band
        Shares, lower and upper end of a 95 % band of the first curve.

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 4.5))
    if band is not None:
        shares, low, high = band
        axes.fill_between(100 * shares, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    for name, (shares, errors), colour, dashes in _styled(curves):
        axes.plot(100 * shares, errors, color=colour, linestyle=dashes, label=name)
    axes.set(
        title=f"Error versus reject at FMR {fmr:g}",
        xlabel="pairs discarded, lowest quality first, in %",
        ylabel="false non-match rate of the rest",
        xlim=(0, 100),
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    _finish(figure, path)


def plot_lengths(lengths: np.ndarray, cosines: np.ndarray, path: Path) -> None:
    """Draw the cosine of faces to their class centre against the norm of their embeddings.

    Parameters
    ----------
    lengths, cosines
        Shape (N,): norm of a face's embedding, and its cosine to the class centre of its person.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 4.5))
    size = float(np.clip(20_000 / max(len(lengths), 1), 4, 36))
    axes.scatter(lengths, cosines, s=size, color=COLOURS[0], alpha=0.5, linewidths=0)
    axes.set(
        title=f"{len(lengths)} faces in training",
        xlabel="length of the embedding",
        ylabel="cosine with the direction of the face's person",
        ylim=(-1, 1),
    )
    _finish(figure, path)


def plot_losses(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the losses of several trainings on the same batches.

    Parameters
    ----------
    curves
        Name of each training to its loss in every batch.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, axes = _new_figure((6.0, 3.5))
    for name, losses, colour, dashes in _styled(curves):
        steps = range(1, len(losses) + 1)
        axes.plot(steps, losses, color=colour, linestyle=dashes, linewidth=1, label=name)
    axes.set(title="Loss on the same batches", xlabel="batch", ylabel="loss")
    axes.legend(loc="upper right")
    _finish(figure, path)


def plot_discard_curves(curves: Mapping[str, Mapping[float, DiscardCurve]], path: Path) -> None:
    """Draw error versus discard of several scores, one panel per false match rate.

    Parameters
    ----------
    curves
        Name of each score to its curves by false match rate, as
        :func:`facezoo.evaluation.quality.compare_scores` returns them.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported, or there is no curve.
    """
    rates = sorted({rate for by_rate in curves.values() for rate in by_rate}, reverse=True)
    if not rates:
        raise InputError("no curve to draw: there is none at any false match rate")
    figure, panels = _new_figure((4.2 * len(rates), 3.8), len(rates))
    for axes, rate in zip(panels, rates):
        for name, by_rate, colour, dashes in _styled(curves):
            curve = by_rate.get(rate)
            if curve is None:
                continue  # This score has no curve at this rate; the report says why.
            x, area = 100 * curve.discards, curve.relative_auc
            axes.fill_between(x, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.15)
            axes.plot(
                x,
                100 * curve.fnmr,
                color=colour,
                linestyle=dashes,
                label=f"{name}: {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]",
            )
        start = next(100 * one[rate].fnmr[0] for one in curves.values() if rate in one)
        axes.axhline(start, color="#777777", linewidth=1, linestyle=":", label="random: 1")
        axes.set(
            title=f"false match rate {rate:g}",
            xlabel="genuine pairs discarded in %",
            ylabel="false non-matches among the rest in %",
            xlim=(0, 95),
        )
        axes.legend(title="area over random discard's", fontsize=8, title_fontsize=8)
    # After the last panel: it stops the automatic choice of the other end, which all panels share.
    panels[0].set_ylim(bottom=0)
    _finish(figure, path)


def plot_responses(responses: Mapping[str, Response], path: Path) -> None:
    """Draw the response of scores to degradations, one panel per kind: median and quartiles.

    Parameters
    ----------
    responses
        Result of :func:`facezoo.evaluation.quality.response_curves`.
    path
        Target file; the suffix selects the format (.png, .svg, .pdf).

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    InputError
        If the format is not supported.
    """
    figure, panels = _new_figure((3.0 * len(responses), 3.2), len(responses))
    colour = COLOURS[0]
    for axes, (kind, response) in zip(panels, responses.items()):
        low, middle, high = np.quantile(response.scores, (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(response.levels, low, high, color=colour, alpha=0.2)
        axes.plot(response.levels, middle, color=colour, marker="o", markersize=3)
        axes.set(title=kind, xlabel=DEGRADATIONS[kind])
        axes.xaxis.label.set_size(8)
    panels[0].set_ylabel("quality: median and quartiles")
    _finish(figure, path)


def check_plot(path: Path) -> None:
    """Raise an error if a plot cannot be written to a path.

    Raises
    ------
    InputError
        If the suffix is not one of an image.
    BackendUnavailable
        If matplotlib is not installed.
    """
    figure, _ = _new_figure((1.0, 1.0))
    _kind_of(figure, path)


def _kind_of(figure: Any, path: Path) -> str:
    kind = path.suffix[1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(
            f"{str(path)!r} has no image suffix; expected one such as .png, .svg or .pdf"
        )
    return kind


def _new_figure(size_inches: Tuple[float, float], panels: int = 0) -> Tuple[Any, Any]:
    """Return a figure with its axes, or with several side by side on one scale."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(
            "plots need the package matplotlib, which is missing; install it with: "
            "pip install matplotlib"
        ) from error
    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    if not panels:
        return figure, figure.add_subplot()
    first = figure.add_subplot(1, panels, 1)
    # Panels share one scale, so that they can be compared.
    others = [figure.add_subplot(1, panels, n + 1, sharey=first) for n in range(1, panels)]
    for axes in others:
        axes.tick_params(labelleft=False)
    return figure, [first, *others]


def _finish(figure: Any, path: Path, grid: str = "both") -> None:
    """Draw a light grid in every panel, along one axis or both, and write the file."""
    for axes in figure.axes:
        axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    kind = _kind_of(figure, path)
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=150)
    write_bytes(path, picture.getvalue())
