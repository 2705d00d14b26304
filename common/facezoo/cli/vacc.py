"""Device self-test: compare device and CPU, and record undocumented behaviour.

  facezoo vacc selftest [PREFIX ...] [--output FILE]

For a machine with a device. Runs each PREFIX (with the vendor's files and ours) on the device and
in ONNX Runtime and compares the results, then tests behaviour that the vendor's documents do not
describe, and writes one JSON file to send in. Without a PREFIX a tiny network is compiled with the
vendor's vamc. The device code of facezoo was written without a device: every finding helps.

  facezoo vacc selftest deploy_weights/*/mod --output facezoo-selftest.json
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ..backends.vsx import TIMEOUT, check_device
from ..contract import Contract
from ..errors import BackendUnavailable
from ..evaluation.drift import compare_detections
from ..files import finite, write_json
from ..models.scrfd.decode import PROFILES, decode
from ..results import RawOutputs
from . import flags
from .options import EXIT_SOME_REFUSED
from .outputs import OutputFile

__all__ = ["configure", "run", "task_drift"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="selftest", required=True)
    selftest = actions.add_parser(
        "selftest",
        help="compare device and CPU, and write the findings",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    selftest.add_argument(
        "prefixes", nargs="*", type=Path, metavar="PREFIX", help="prefixes of artifacts to run"
    )
    flags.add(selftest, "--device", old=("--device_id",))
    flags.add(selftest, "--threads")
    flags.add(
        selftest,
        "--output",
        "JSON file to write, to be sent in",
        action=OutputFile,
        metavar="FILE",
        old=("--out",),
    )


def run(args: argparse.Namespace) -> int:
    """Check the device first; then print and save every finding as it comes."""
    try:
        check_device(args.device)
    except BackendUnavailable as error:
        raise BackendUnavailable(f"the self-test needs a device: {error}") from error
    from ..doctor import device_selftest as selftest

    report: Dict[str, Any] = {**selftest.describe_environment(args.device), "findings": []}
    with tempfile.TemporaryDirectory(prefix="facezoo-selftest-") as folder:
        prefixes = args.prefixes or [selftest.compile_tiny(Path(folder))]
        findings = selftest.run_selftest(
            prefixes, device_id=args.device, timeout=TIMEOUT, drift=task_drift
        )
        for finding in findings:
            print(f"{finding.name}: {'FAILED: ' * finding.failed}{finding.answer}", flush=True)
            report["findings"].append(dataclasses.asdict(finding))
            if args.output:
                write_json(args.output, finite(report), indent=2)
    failed = sum(finding["failed"] for finding in report["findings"])
    to_send = args.output or "what --output writes"
    count = len(report["findings"])
    print(f"{count} findings, {failed} steps failed; please send {to_send} to the project")
    return EXIT_SOME_REFUSED if failed else 0


def task_drift(
    contract: Contract, pairs: Sequence[Tuple[RawOutputs, RawOutputs]]
) -> Dict[str, Any]:
    """Return the difference between the results of device and host, in measures of the task.

    Parameters
    ----------
    contract
        Contract of the network.
    pairs
        Raw outputs of host and device, one pair per image.

    Returns
    -------
    dict
        Fields of a :class:`~facezoo.evaluation.drift.DetectionDrift`; empty for models without such
        a comparison.
    """
    if contract.model != "scrfd":
        return {}
    profile = PROFILES["demo"]
    faces: List[Any] = [
        tuple(decode(raw, profile=profile, **contract.decode)[0] for raw in pair) for pair in pairs
    ]
    return dataclasses.asdict(compare_detections(faces))
