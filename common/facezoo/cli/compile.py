"""Compile a build YAML, optionally with another dtype, model or name.

The YAML is the vendor's, see ``facezoo vamc``; flags override its values, so that one YAML serves
every dtype and variant. fp16 and int8 builds are compared with fp32 on images by the accuracy gate
and written only if they pass. An int8 build runs on every CPU with --arithmetic portable; full
weights are more exact, but only for CPUs with VNNI or ARM ones, and refused elsewhere.

  facezoo compile ../build_in/build/official_scrfd.yaml --dtype int8 --images held_out/
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..artifact import FULL, PORTABLE, Artifact, BuildInfo
from ..errors import ConfigError, FaceZooError, GateError, InputError
from ..files import counted
from ..vacc.build_config import DTYPES, BuildConfig, read_build_config
from . import flags
from .options import progress

__all__ = ["build", "configure", "open_data", "override", "print_artifact", "run"]

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("yaml", type=Path, metavar="YAML", help="a recipe's build_in/build/*.yaml")
    flags.add(
        parser,
        "--dtype",
        "type that overrides backend.dtype (default: the YAML's); the artifact is named "
        "<YAML's name>_<dtype>",
        choices=DTYPES,
    )
    flags.add(
        parser,
        "--model",
        "card's id or .onnx that overrides frontend.checkpoint (default: the YAML's)",
        old=("--checkpoint",),
    )
    flags.add(
        parser,
        "--name",
        "name of the artifact's folder that overrides name (default: the YAML's)",
        metavar="NAME",
    )
    flags.add_reading(parser)
    flags.add(parser, "--threads")
    flags.add(
        parser,
        "--arithmetic",
        "int8 weights of 7 bits, right on every CPU; of 8, for CPUs with exact 8-bit sums; or "
        "what is right on this one",
        choices=("auto", PORTABLE, FULL),
        default="auto",
    )
    group = parser.add_argument_group("calibration and accuracy gate")
    flags.add(
        group,
        "--images",
        "held-out images for the accuracy gate (default: those of the YAML's .gate.yaml, else the "
        "calibration images)",
    )
    flags.add(
        group,
        "--eval-list",
        "images to evaluate later, which must not be used for calibration (default: that of the "
        "YAML's .gate.yaml)",
        type=Path,
        metavar="LIST",
    )
    flags.add(
        group,
        "--allow-leak",
        "only warn if calibration files are in --eval-list",
        action="store_true",
    )
    flags.add(group, "--allow-custom-code")


def run(args: argparse.Namespace) -> int:
    """Compile and print the result."""
    config = override(
        read_build_config(args.yaml), dtype=args.dtype, model=args.model, name=args.name
    )
    if args.arithmetic != "auto" and config.backend.dtype != "int8":
        raise InputError(
            f"--arithmetic {args.arithmetic} is for int8, but this build is "
            f"{config.backend.dtype}; add --dtype int8, or omit it"
        )
    build(
        config,
        arithmetic=args.arithmetic,
        images=args.images,
        eval_list=args.eval_list,
        allow_leak=args.allow_leak,
        allow_code=args.allow_custom_code,
    )
    return 0


def build(
    config: BuildConfig,
    images: Optional[Path] = None,
    eval_list: Optional[Path] = None,
    allow_leak: bool = False,
    allow_code: bool = False,
    arithmetic: str = "auto",
) -> Artifact:
    """Calibrate, compile, run the accuracy gate, and print the result.

    Parameters
    ----------
    config
        The build to compile.
    images, eval_list
        Override ``<yaml name>.gate.yaml``.
    allow_leak, allow_code
        See :func:`facezoo.compiler.calibration.open_calibration`.
    arithmetic
        See :func:`facezoo.compiler.build.compile_model`.
    """
    from ..backends.int8 import saturates
    from ..backends.ort import OrtBackend
    from ..compiler.build import compile_model
    from ..compiler.gate import open_gate, read_gate_settings

    settings = read_gate_settings(config.file)
    settings = dataclasses.replace(
        settings,
        images=images or settings.images,
        eval_list=eval_list or settings.eval_list,
    )
    if config.backend.dtype == "fp32":
        artifact = compile_model(config)
        print_artifact(artifact)
        return artifact
    calibration, unusable = open_data(config, settings.eval_list, allow_leak, allow_code)
    judging = partial(progress, what="accuracy gate")
    gate = open_gate(config, settings, calibration, unusable, judging)
    if arithmetic == FULL and saturates(OrtBackend):
        _log.warning(
            "%s: 8-bit sums saturate on this CPU, so the accuracy gate computes them exactly, as "
            "the CPUs do that this build is for; here it will be refused",
            config.file,
        )
        if gate is not None:
            gate.exact = True
    judge = _Judge(config, gate)
    try:
        artifact = compile_model(config, gate=judge, calibration=calibration, arithmetic=arithmetic)
    except GateError:
        judge.print_checks()
        raise
    print_artifact(artifact)
    judge.print_checks()
    judge.print_speed()
    return artifact


def open_data(
    config: BuildConfig, eval_list: Optional[Path], allow_leak: bool, allow_code: bool
) -> Tuple[Any, str]:
    """Open the calibration data; for other dtypes than int8 only the gate uses it, if it exists.

    Returns
    -------
    calibration : CalibrationSet or None
        None if there is none, or it cannot be used.
    reason : str
        Why it cannot be used; empty if it can or there is none.
    """
    from ..compiler.calibration import open_calibration
    from ..contract import read_contract

    dataset = config.dataset
    needed = config.backend.dtype == "int8"
    if not needed and (dataset is None or dataset.path is None or not dataset.path.is_dir()):
        return None, ""
    try:
        base = read_contract(config.frontend.checkpoint).preprocess
    except FaceZooError:
        base = None  # The compiler reports the problem of the file.
    try:
        return open_calibration(
            config,
            base,
            allow_code=allow_code,
            eval_list=eval_list,
            allow_leak=allow_leak,
            progress=partial(progress, what="calibration"),
        ), ""
    except ConfigError as error:
        if needed:
            raise
        return None, str(error)


class _Judge:
    """The accuracy gate, with a speed comparison of both graphs."""

    def __init__(self, config: BuildConfig, gate: Any) -> None:
        self._config = config
        self._gate = gate
        self._milliseconds: Mapping[str, float] = {}

    def __call__(self, reference: bytes, built: bytes) -> Optional[Mapping[str, Any]]:
        measured: Optional[Mapping[str, Any]] = None
        if self._gate is not None:
            measured = self._gate(reference, built)
        if self._config.backend.dtype == "int8":
            shapes = {name: sizes[0] for name, sizes in self._config.frontend.shape.items()}
            self._milliseconds = _time_builds(reference, built, shapes)
        return measured

    def print_checks(self) -> None:
        """Print the table of the gate."""
        if self._gate is None or not self._gate.checks:
            return
        kind = "held-out" if self._gate.held_out else "calibration"
        shown = counted(len(self._gate.pictures), f"{kind} image")
        print(f"gate      against fp32 on {shown}")
        for check in self._gate.checks:
            print(f"          {check}")

    def print_speed(self) -> None:
        """Print the time of int8 relative to fp32; fp16 computes in float32 here."""
        if not self._milliseconds:
            return
        fp32, int8 = self._milliseconds["fp32"], self._milliseconds["int8"]
        print(f"speed     {int8:.1f} ms per image, fp32 {fp32:.1f} ms: {int8 / fp32:.2f}x the time")
        if int8 >= fp32:
            print("          int8 is not faster on this machine; the faster build is --dtype fp32")


def _time_builds(
    reference: bytes, built: bytes, shapes: Mapping[str, Sequence[int]]
) -> Mapping[str, float]:
    """Time a build against the fp32 build of the same source, in milliseconds per image."""
    import onnx

    from ..backends.ort import open_session
    from ..compiler.rewrite import rewrite_prelu
    from ..evaluation.drift import time_in_turns
    from ..machine import usable_cores

    model = onnx.load_model_from_string(reference)
    rewrite_prelu(model)
    fp32, int8 = (open_session(g, usable_cores()) for g in (model.SerializeToString(), built))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal((1, *shape[1:]), np.float32) for name, shape in shapes.items()
    }
    return time_in_turns(
        {"fp32": lambda: fp32.run(None, feeds), "int8": lambda: int8.run(None, feeds)}
    )


def override(
    config: BuildConfig,
    dtype: Optional[str] = None,
    model: Optional[str] = None,
    name: Optional[str] = None,
) -> BuildConfig:
    """Return the configuration with the overridden values; a dtype also renames the artifact."""
    if dtype is not None:
        backend = dataclasses.replace(config.backend, dtype=dtype)
        config = dataclasses.replace(config, backend=backend, name=f"{config.file.stem}_{dtype}")
    if model is not None:
        frontend = dataclasses.replace(config.frontend, checkpoint=_graph_of(model))
        config = dataclasses.replace(config, frontend=frontend)
    if name is not None:
        config = dataclasses.replace(config, name=name)
    return config


def print_artifact(artifact: Artifact) -> None:
    """Print prefix, size, dtype and graph changes of an artifact in aligned lines."""
    build, model = artifact.build, artifact.model
    if build is None or model is None:
        return
    worst = max(build.deviation.values(), default=0.0)
    lines = {
        "artifact": str(artifact.prefix),
        "size": f"{model.stat().st_size / 1e6:.1f} MB",
        "dtype": f"{build.dtype} ({build.arithmetic})",
        "contract": build.card or "none: the source does not record its pre-processing",
        "graph": _graph_line(build),
        "check": f"largest output error against the source: {worst:.2g} of the output's RMS",
    }
    if build.dtype == "int8":
        del lines["check"]  # Measured on random images, which are outside the calibrated range.
    for label, text in lines.items():
        print(f"{label:9} {text}")


def _graph_line(build: BuildInfo) -> str:
    folded = ", ".join(f"{count} {name}" for name, count in build.graph["folded"].items())
    parts = [f"folded {folded or 'nothing'}"]
    if build.graph.get("prelu_rewritten"):
        parts.append(f"{build.graph['prelu_rewritten']} PRelu rewritten as convolutions")
    return "; ".join(parts)


def _graph_of(model: str) -> Path:
    """Return the .onnx to compile; the compiler checks a file that is named."""
    # Imported here, since the help needs none of it.
    from ..models import CARDS
    from ..pipeline.load import resolve

    name, at, _ = model.rpartition("@")
    if model in CARDS:
        return resolve(model)[0]
    if at and (name in CARDS or name.endswith(".onnx")):
        raise InputError(f"--model {model}: a build is for every engine; omit what follows @")
    return Path(model)
