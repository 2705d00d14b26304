"""Compile a build YAML, with its dtype, model or name overridden.

The YAML is the vendor's, see ``facezoo vamc``; what is given here stands in for what it says, so
that one YAML serves every dtype and variant.

  facezoo compile ../build_in/build/official_scrfd.yaml --dtype fp16
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Optional

from ..vacc.artifact import Artifact, BuildInfo
from ..vacc.build_config import DTYPES, BuildConfig, read_build_config

__all__ = ["configure", "print_artifact", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("yaml", type=Path, metavar="YAML", help="a recipe's build_in/build/*.yaml")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="in place of backend.dtype; the artifact becomes <YAML's name>_<dtype>",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="F.onnx", help="in place of frontend.checkpoint"
    )
    parser.add_argument("--name", help="the artifact's folder, in place of name")


def run(args: argparse.Namespace) -> int:
    """Compile and say what came of it."""
    from ..vacc.compiler import compile_model

    config = override(
        read_build_config(args.yaml), dtype=args.dtype, checkpoint=args.checkpoint, name=args.name
    )
    print_artifact(compile_model(config))
    return 0


def override(
    config: BuildConfig,
    dtype: Optional[str] = None,
    checkpoint: Optional[Path] = None,
    name: Optional[str] = None,
) -> BuildConfig:
    """Return the configuration with the given parts replaced; a dtype also renames the artifact."""
    if dtype is not None:
        backend = dataclasses.replace(config.backend, dtype=dtype)
        config = dataclasses.replace(config, backend=backend, name=f"{config.file.stem}_{dtype}")
    if checkpoint is not None:
        frontend = dataclasses.replace(config.frontend, checkpoint=checkpoint)
        config = dataclasses.replace(config, frontend=frontend)
    if name is not None:
        config = dataclasses.replace(config, name=name)
    return config


def print_artifact(artifact: Artifact) -> None:
    """Print an artifact's prefix, size, dtype and what was folded, in aligned lines."""
    build, model = artifact.build, artifact.model
    if build is None or model is None:
        return
    worst = max(build.deviation.values(), default=0.0)
    lines = {
        "artifact": str(artifact.prefix),
        "size": f"{model.stat().st_size / 1e6:.1f} MB",
        "dtype": f"{build.dtype} ({build.arithmetic})",
        "contract": build.card or "none: the source does not say how to feed it",
        "graph": _graph_line(build),
        "check": f"outputs within {worst:.2g} of their root mean square of the source's",
    }
    for label, text in lines.items():
        print(f"{label:9} {text}")


def _graph_line(build: BuildInfo) -> str:
    folded = ", ".join(f"{count} {name}" for name, count in build.graph["folded"].items())
    parts = [f"folded {folded or 'nothing'}"]
    if build.graph.get("prelu_rewritten"):
        parts.append(f"{build.graph['prelu_rewritten']} PRelu rewritten as convolutions")
    return "; ".join(parts)
