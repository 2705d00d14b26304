r"""Evaluate result files, or a model on photos, against ground truth.

  facezoo evaluate scrfd --pred runstream_output/txt --gt ground_truth --plot pr.png
  facezoo evaluate scrfd --images WIDER_val/images --gt ground_truth \
      --detector deploy_weights/official_scrfd_fp32/mod --output evaluation
  facezoo evaluate scrfd --images WIDER_val/images --gt ground_truth \
      --detector onnx/scrfd_500m_bnkps.onnx --output ledger --ledger ledger.json
  facezoo evaluate landmarks --pred runstream_output/results.json --gt WFLW --plot ced.png
  facezoo evaluate landmarks --landmarks onnx/pfld_ghostone.onnx --gt wflw --crop points
  facezoo evaluate verification --images people --detector scrfd_500m_bnkps \
      --embedder w600k_mbf --json people.json
  facezoo evaluate verification --pairs lfw/pairs.txt --photos lfw --output lfw_run \
      --detector scrfd_500m_bnkps --embedder w600k_mbf
  facezoo evaluate clusters --tables run --threshold 0.4
  facezoo evaluate identification --tables run --fpir 0.1
  facezoo evaluate quality --scores sdd_fiqa=infer_output/results.json \
      --embeddings labels/test/embeddings.npz --plot discard.png

facezoo prepare widerface --help says where to get photos and ground truth.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, Callable

from .flags import (
    add_cluster_options,
    add_detection_options,
    add_identification_options,
    add_landmark_options,
    add_quality_options,
    add_response_options,
    add_verification_options,
)

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per model or metric, with the options of its metric."""
    models = parser.add_subparsers(dest="kind", metavar="MODEL", required=True)

    def kind(name: str, says: str, add: Callable[[Any], None], function: str, **more: Any) -> None:
        sub = models.add_parser(
            name, formatter_class=parser.formatter_class, allow_abbrev=False, help=says, **more
        )
        add(sub)
        sub.set_defaults(evaluate=function)

    kind(
        "scrfd",
        "average precision on WIDER FACE",
        lambda sub: add_detection_options(sub, with_inference=True),
        "detection.run_detection",
        description="Average precision on the WIDER FACE validation set.",
    )
    kind(
        "landmarks",
        "normalised error, failure rate and area under the curve on WFLW",
        add_landmark_options,
        "landmarks.run_landmarks",
        aliases=["pipnet"],
        description="Landmark metrics of a result file, or of a model on WFLW's photos, with "
        "subsets.",
    )
    kind(
        "verification",
        "recognition accuracy of a protocol's pairs, or over a folder of people",
        add_verification_options,
        "recognition.run_recognition",
        description="Accuracy over the pairs of a protocol, in its folds; or over all genuine "
        "pairs of a folder of people and as many or all impostor pairs.",
    )
    kind(
        "clusters",
        "people that facezoo cluster finds, against the folders of people",
        add_cluster_options,
        "clusters.run_clusters",
        description="B-cubed and pairwise precision and recall of the groups that facezoo cluster "
        "makes of the photos of facezoo score, one face of each, the central one. Needs the extra "
        "gallery.",
    )
    kind(
        "identification",
        "rank-1, and misses where few strangers are given a name",
        add_identification_options,
        "identification.run_identification",
        description="Identification of the photos of facezoo score: the first photo of each person "
        "with several is enrolled, the others are to be found again, and people with one photo are "
        "strangers. Needs the extra gallery.",
    )
    kind(
        "quality",
        "error versus discard of quality scores",
        add_quality_options,
        "quality.run_quality",
        description="Error that remains as the pairs of lowest quality are discarded, for any "
        "scores in one plot, with areas and bootstrap intervals over people.",
    )
    kind(
        "quality-response",
        "quality scores of faces under known degradations",
        add_response_options,
        "quality.run_response",
        description="Scores under blur, down-scaling, JPEG, brightness and occlusion.",
    )


def run(args: argparse.Namespace) -> int:
    """Run the evaluation of the sub-command."""
    if getattr(args, "record", None):
        # Refused before the work, if it is a file of something else.
        import_module("facezoo.reports.numerics").read_numerics(args.record)
    module, _, function = args.evaluate.partition(".")
    return int(getattr(import_module(f"{__name__}.{module}"), function)(args))
