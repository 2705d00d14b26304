"""Context recorded with a measurement: engine, flags, machine."""

from __future__ import annotations

__all__ = [
    "dtype_of",
    "engine_text",
    "machine_text",
    "prefix_text",
    "runtime_flags",
]

import argparse
from pathlib import Path

from ...artifact import read_artifact
from ...backends.base import Backend
from ...machine import describe_machine
from ...pipeline.load import resolve


def engine_text(backend: Backend) -> str:
    """Name a runtime, its version and, if not float32, its arithmetic."""
    precision = getattr(backend, "precision", "f32")
    return f"{backend.name} {backend.version}" + f" {precision}" * (precision != "f32")


def runtime_flags(args: argparse.Namespace) -> str:
    """Return the flags that select another runtime than the default."""
    usual = {"engine": "auto", "provider": "cpu", "precision": "f32"}
    given = {name: getattr(args, name) for name in usual}
    words = "".join(f" --{name} {given[name]}" for name in usual if given[name] != usual[name])
    return words + (" --allow-saturation" if args.allow_saturation else "")


def machine_text() -> str:
    """Name the processor and its cores."""
    machine = describe_machine()
    return f"{machine['cores']} cores of {machine['cpu']}"


def dtype_of(prefix: str) -> str:
    """Return the precision of a build; a single .onnx and the vendor's files record none."""
    path, _ = resolve(prefix)
    return "fp32" if path.suffix == ".onnx" else read_artifact(path).dtype or "fp16"


def prefix_text(prefix: str) -> str:
    """Name a model by the machine-independent part of its path."""
    return "/".join(Path(prefix).parts[-3:])
