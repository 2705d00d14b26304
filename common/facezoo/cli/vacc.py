"""Device self-test: compare device and CPU, and record undocumented behaviour.

  facezoo vacc selftest [PREFIX ...]

For a machine with a device. Runs each PREFIX (with the vendor's files and ours) on the device and
in ONNX Runtime and compares the results, then tests behaviour that the vendor's documents do not
describe, and writes one JSON file to send in. Without a PREFIX a tiny network is compiled with the
vendor's vamc. The device code of facezoo was written without a device: every finding helps.

  facezoo vacc selftest deploy_weights/*/mod --out facezoo-selftest.json
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
from ..fields import DEVICE_ID
from ..files import finite, write_json
from ..models.scrfd.decode import PROFILES, decode
from ..results import RawOutputs
from .options import EXIT_SOME_REFUSED, add_flag, add_output, add_threads_option

__all__ = ["configure", "run", "task_drift"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="selftest", required=True)
    selftest = actions.add_parser("selftest", help="compare device and CPU, and write the findings")
    selftest.add_argument(
        "prefixes", nargs="*", type=Path, metavar="PREFIX", help="prefixes of artifacts to run"
    )
    add_flag(
        selftest,
        "--device_id",
        "--device",
        type=DEVICE_ID,
        default=0,
        metavar="N",
        help="device number",
    )
    add_threads_option(selftest)
    add_output(
        selftest,
        "--out",
        default=Path("facezoo-selftest.json"),
        metavar="FILE",
        help="JSON file to write",
    )


def run(args: argparse.Namespace) -> int:
    """Check the device first; then print and save every finding as it comes."""
    try:
        check_device(args.device_id)
    except BackendUnavailable as error:
        raise BackendUnavailable(f"the self-test needs a device: {error}") from error
    from ..doctor import device_selftest as selftest

    report: Dict[str, Any] = {**selftest.describe_environment(args.device_id), "findings": []}
    with tempfile.TemporaryDirectory(prefix="facezoo-selftest-") as folder:
        prefixes = args.prefixes or [selftest.compile_tiny(Path(folder))]
        findings = selftest.run_selftest(
            prefixes, device_id=args.device_id, timeout=TIMEOUT, drift=task_drift
        )
        for finding in findings:
            print(f"{finding.name}: {'FAILED: ' * finding.failed}{finding.answer}", flush=True)
            report["findings"].append(dataclasses.asdict(finding))
            write_json(args.out, finite(report), indent=2)
    failed = sum(finding["failed"] for finding in report["findings"])
    print(
        f"{len(report['findings'])} findings, {failed} steps failed; please send {args.out} to the "
        "project"
    )
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
