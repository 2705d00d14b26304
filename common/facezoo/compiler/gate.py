"""Accuracy gate: a build that loses too much against fp32, by task metrics, is rejected.

Limits come from the model card, and from the optional ``<yaml name>.gate.yaml`` beside the build
YAML::

    images: ../held_out                  # images to measure on, not used for calibration
    ground_truth: eval_tools/ground_truth  # of WIDER FACE, for AP
    eval_list: evaluated.txt             # images not allowed for calibration
    limits:
      missed_share: 0.1

Paths are relative to the working directory, as in the build YAML.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import os
import reprlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..backends.ort import OrtBackend
from ..card import GATE_LIMITS
from ..contract import Contract, load_graph, metadata_of, read_contract
from ..datasets.widerface import read_ground_truth
from ..errors import CardError, ConfigError, DecodeError, GateError, GraphError, ImageError
from ..evaluation.drift import compare_backends
from ..evaluation.measured import MeasuredList
from ..files import counted, open_file, sha256_of
from ..image.files import find_images, read_image_rgb
from ..image.preprocess import VdspOperation
from ..models import CARDS, MODELS, find_card
from ..runs import Progress
from ..vacc.build_config import LARGEST_FILE, BuildConfig, load_yaml
from .calibration import CalibrationSet
from .ranges import LargestActivation, largest_activation
from .sensitivity import measure_drift

__all__ = [
    "Check",
    "Gate",
    "GateSettings",
    "open_gate",
    "read_gate_settings",
]


# Measures that must not fall below their limit; all others must not rise above it.
AT_LEAST = ("mean_iou", "cosine", "cosine_mean", "cosine_min", "norm_rank", "rank")
# Measure of fp16 builds: the largest magnitude that a layer gives.
ACTIVATION = "activation"
LARGEST_HALF = float(np.finfo(np.float16).max)
# For networks of an unknown task: the lowest cosine of an output, and the largest share of variance
# that a channel of any output loses.
RAW_LIMITS: Mapping[str, float] = {"cosine": 0.98, "worst_channel": 0.5}
SETTINGS = ("images", "ground_truth", "eval_list", "limits")
FARTHEST = 1e6  # no measure comes near it

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateSettings:
    """Content of ``<yaml name>.gate.yaml``; empty without that file.

    Attributes
    ----------
    images
        Held-out images: a folder or a single image.
    ground_truth
        Folder of WIDER FACE's .mat files.
    eval_list
        See :func:`facezoo.compiler.calibration.open_calibration`.
    limits
        Limits that replace the card's, by measure.
    """

    images: Optional[Path] = None
    ground_truth: Optional[Path] = None
    eval_list: Optional[Path] = None
    limits: Mapping[str, float] = field(default_factory=dict)


def read_gate_settings(build_yaml: Path) -> GateSettings:
    """Read the settings beside a build YAML.

    Parameters
    ----------
    build_yaml
        Path such as ``official_scrfd.yaml``; ``official_scrfd.gate.yaml`` beside it is read.

    Returns
    -------
    GateSettings
        The defaults if there is no such file.

    Raises
    ------
    ConfigError
        If the file has other content.
    """
    file = build_yaml.with_name(f"{build_yaml.stem}.gate.yaml")
    if not os.path.lexists(file):
        return GateSettings()
    try:
        with open_file(file) as opened:
            data = opened.read(LARGEST_FILE + 1)  # One byte more shows that the file is too large.
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    entries = load_yaml(data, str(file)) or {}
    if not isinstance(entries, dict):
        raise ConfigError(f"{file}: expected the keys {', '.join(SETTINGS)}")
    _check_known(file, "key", entries, SETTINGS)
    for key in SETTINGS[:3]:
        if key in entries and not isinstance(entries[key], str):
            raise ConfigError(f"{file}: {key} is {entries[key]!r}; expected a path")
    limits = entries.get("limits") or {}
    if not isinstance(limits, dict):
        raise ConfigError(
            f"{file}: limits is {limits!r}; expected a mapping of measures to numbers"
        )
    known = {name for of_task in (*GATE_LIMITS.values(), RAW_LIMITS) for name in of_task}
    _check_known(file, "limit", limits, sorted(known))
    for name, value in limits.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not -FARTHEST <= value <= FARTHEST:
            raise ConfigError(
                f"{file}: limits.{name} is {reprlib.repr(value)}; expected a number from "
                f"{-FARTHEST:g} to {FARTHEST:g}"
            )
    paths = {key: Path(entries[key]) for key in SETTINGS[:3] if key in entries}
    return GateSettings(**paths, limits={name: float(value) for name, value in limits.items()})


def _check_known(file: Path, kind: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{file}: unknown {kind} {name!r}; the nearest is {nearest!r}")


@dataclass(frozen=True)
class Check:
    """One measure with its limit.

    Attributes
    ----------
    name
        Name of the measure.
    value
        Measured value.
    limit
        Largest or smallest allowed value.
    """

    name: str
    value: float
    limit: float

    @property
    def bound(self) -> str:
        """``at least`` or ``at most``."""
        return "at least" if self.name in AT_LEAST else "at most"

    @property
    def passed(self) -> bool:
        """Whether the limit is met; NaN never meets it."""
        if self.name in AT_LEAST:
            return self.value >= self.limit
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"{self.name:16}{self.value:>10.4f}  {self.bound} {self.limit:<8g} {verdict}"


class Gate:
    """Compare a build with the float network; an argument of ``compile_model``.

    Parameters
    ----------
    pictures
        Image files to measure on, in the form that the model expects.
    held_out
        Whether none of them was used for calibration.
    settings
        The user's limits, and the ground truth.
    data
        The same files as feeds, for networks of an unknown task: raw outputs are compared.
    exact
        Compute the build as :func:`facezoo.backends.ort.open_session` says: the result on a CPU
        whose 8-bit sums do not saturate, measured on one where they do.
    progress
        Wraps each loop over the images.

    Attributes
    ----------
    checks
        Checks of the last call.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        held_out: bool,
        settings: GateSettings,
        data: Optional[CalibrationSet] = None,
        exact: bool = False,
        progress: Progress = lambda items, total: items,
    ) -> None:
        self.pictures = list(pictures)
        self.held_out = held_out
        self.settings = settings
        self.data = data
        self.exact = exact
        self.progress = progress
        self.checks: Tuple[Check, ...] = ()

    def __call__(self, reference: bytes, built: bytes) -> Mapping[str, Any]:
        """Check a build.

        Parameters
        ----------
        reference, built
            Serialised graphs.

        Returns
        -------
        dict
            Measured values, as JSON values.

        Raises
        ------
        GateError
            If a limit is not met, or nothing can be measured.
        """
        with tempfile.TemporaryDirectory() as folder:
            graphs = Path(folder, "reference.onnx"), Path(folder, "built.onnx")
            for path, graph in zip(graphs, (reference, built)):
                path.write_bytes(graph)
            measured, limits = self._measure(*graphs)
            largest = self._largest_activation(*graphs)
        limits = {**limits, **self.settings.limits}
        if largest is not None:
            measured = {**measured, ACTIVATION: largest.value}
            limits[ACTIVATION] = LARGEST_HALF
        unknown = sorted(set(self.settings.limits) - set(measured))
        if unknown:
            _log.warning("accuracy gate: no such measure for this network: %s", ", ".join(unknown))
        self.checks = tuple(
            Check(name, measured[name], limit) for name, limit in limits.items() if name in measured
        )
        failed = [check for check in self.checks if not check.passed]
        if failed:
            advice = "for int8, facezoo sensitivity finds layers to exclude"
            if largest is not None and largest.value > LARGEST_HALF:
                advice = (
                    f"{largest.layer} gives it on {str(self.pictures[largest.index])!r}, and "
                    "overflows in float16 on a device; compile with --dtype fp32"
                )
            raise GateError(
                f"the accuracy gate rejects the build on {counted(len(self.pictures), 'image')}: "
                + ", ".join(f"{c.name} {c.value:.6g}, {c.bound} {c.limit:g}" for c in failed)
                + f"; nothing was written; {advice}"
            )
        finite = {n: round(v, 6) if math.isfinite(v) else None for n, v in measured.items()}
        return {
            "pictures": len(self.pictures),
            "measured_on": MeasuredList.of_files(self.pictures).to_dict(),
            "held_out": self.held_out,
            "measured": finite,
            "limits": {check.name: check.limit for check in self.checks},
            **({"exact": True} if self.exact else {}),
        }

    def _measure(
        self, reference: Path, built: Path
    ) -> Tuple[Mapping[str, float], Mapping[str, float]]:
        contract = _contract_of(reference)
        if contract is not None and contract.model in MODELS and _are_pictures(self.pictures):
            return self._measure_task(reference, built, contract), _limits_of(contract)
        if self.data is None:
            raise GateError(
                "the network has no contract of a known task, so the accuracy gate cannot run it "
                "on images; export it with the recipe's source_code/export_onnx.py"
            )
        return _measure_outputs(reference, built, self.data, self.exact), RAW_LIMITS

    def _largest_activation(self, reference: Path, built: Path) -> Optional[LargestActivation]:
        """Run an fp16 build, which computes in float32 here, and find its largest activation."""
        model = load_graph(built)
        if metadata_of(model).get("dtype") != "fp16":
            return None
        contract = _contract_of(reference)
        if self.data is not None:
            return largest_activation(model, self.data)
        if contract is None:
            return None  # The measurement before has refused it.
        name, operation = contract.input_name, VdspOperation(contract.preprocess)
        return largest_activation(
            model, ({name: operation(image)[0][None]} for image in self._readable())
        )

    def _readable(self) -> Iterator[np.ndarray]:
        for path in self.progress(self.pictures, len(self.pictures)):
            try:
                yield read_image_rgb(path)
            except ImageError:  # Named by the measurement before.
                yield np.zeros((1, 1, 3), np.uint8)

    def _measure_task(self, reference: Path, built: Path, contract: Contract) -> Dict[str, float]:
        truth = self.settings.ground_truth
        ground_truth = read_ground_truth(truth) if truth else None
        with OrtBackend(reference, contract) as a, OrtBackend(
            built, contract, half_input=True, exact=self.exact
        ) as b:
            try:
                pictures = self.progress(self.pictures, len(self.pictures))
                found = compare_backends(a, b, pictures, ground_truth)
            except DecodeError as error:
                raise GateError(
                    f"the accuracy gate rejects the build: outputs cannot be decoded ({error}); "
                    "nothing was written"
                ) from error
        for path, reason in found.refused.items():
            _log.warning("not used by the accuracy gate: %s: %s", path, reason)
        if found.task.get("faces") == 0:
            raise GateError(
                f"the float network finds no face in {counted(found.pictures, 'image')}, so the "
                "accuracy gate cannot measure anything; give images with faces: --images"
            )
        return dict(found.task)


def _are_pictures(paths: Sequence[Path]) -> bool:
    return all(path.suffix != ".npz" for path in paths)


def _contract_of(graph: Path) -> Optional[Contract]:
    try:
        return read_contract(graph)
    except GraphError:
        return None  # The compiler has already reported it.


def _limits_of(contract: Contract) -> Mapping[str, float]:
    try:
        return find_card(contract.card_id).gate_limits
    except CardError:
        task = next(card.task for card in CARDS.values() if card.model == contract.model)
        return GATE_LIMITS[task]


def _measure_outputs(
    reference: Path, built: Path, data: CalibrationSet, exact: bool
) -> Dict[str, float]:
    drifts = measure_drift(reference, built, data, exact).values()
    return {
        "cosine": min(drift.cosine for drift in drifts),
        "worst_channel": max(drift.worst_lost for drift in drifts),
    }


def open_gate(
    config: BuildConfig,
    settings: GateSettings,
    calibration: Optional[CalibrationSet] = None,
    unusable: str = "",
    progress: Progress = lambda items, total: items,
) -> Optional[Gate]:
    """Create the accuracy gate of a build.

    Parameters
    ----------
    config
        The build.
    settings
        Gives the held-out images; without any, the calibration images are used, with a warning.
    calibration
        Calibration data of the build; None if it is not calibrated.
    unusable
        Why the calibration data of the YAML cannot be used, if there is some.
    progress
        Wraps each loop over the images.

    Returns
    -------
    Gate or None
        None, with a warning, if there are no images at all.

    Raises
    ------
    InputError
        If the image folder does not exist or is empty.
    """
    if settings.images is None:
        if calibration is None:
            reason = "no images to compare the build with fp32; give some"
            if unusable:
                reason = f"{unusable}; correct it, or give other images"
            _log.warning(
                "%s: accuracy gate skipped: %s: facezoo compile --images DIR", config.file, reason
            )
            return None
        _log.warning(
            "%s: the accuracy gate uses the calibration files, so its result is too optimistic; "
            "give other images: facezoo compile --images DIR",
            config.file,
        )
        data = dataclasses.replace(calibration, progress=progress)
        return Gate(calibration.paths, False, settings, data, progress=progress)
    pictures = find_images(settings.images)
    if calibration is None:
        return Gate(pictures, True, settings, progress=progress)
    used = set(calibration.sha256)
    hashes = tuple(map(sha256_of, pictures))
    both = [path for path, sha256 in zip(pictures, hashes) if sha256 in used]
    if both:
        _log.warning(
            "%s: %d of %d images of the accuracy gate, such as %s, are also calibration files",
            config.file,
            len(both),
            len(pictures),
            both[0],
        )
    names = tuple(str(path) for path in pictures)
    data = CalibrationSet(Path(), names, hashes, calibration.load, progress)
    return Gate(pictures, not both, settings, data, progress=progress)
