r"""Evaluate result files, or a model on photos, against ground truth.

  facezoo evaluate scrfd --pred runstream_output/txt --gt ground_truth --plot pr.png
  facezoo evaluate scrfd --images WIDER_val/images --gt ground_truth \
      --model_prefix_path deploy_weights/official_scrfd_fp32/mod --save_dir evaluation
  facezoo evaluate scrfd --images WIDER_val/images --gt ground_truth \
      --model_prefix_path onnx/scrfd_500m_bnkps.onnx --save_dir ledger --ledger ledger.json
  facezoo evaluate landmarks --pred runstream_output/results.json --gt WFLW --plot ced.png
  facezoo evaluate landmarks --model_prefix_path onnx/pfld_ghostone.onnx --gt wflw --crop points
  facezoo evaluate verification --images people --detector onnx/scrfd_500m_bnkps.onnx \
      --model_prefix_path onnx/w600k_mbf.onnx --json people.json
  facezoo evaluate verification --pairs lfw/pairs.txt --photos lfw --save_dir lfw_run \
      --detector onnx/scrfd_500m_bnkps.onnx --embedder onnx/w600k_mbf.onnx
  facezoo evaluate quality --scores sdd_fiqa=infer_output/results.json \
      --embeddings labels/test/embeddings.npz --plot discard.png

facezoo prepare widerface --help says where to get photos and ground truth.
"""

from __future__ import annotations

import argparse
import logging

from ..options import add_reading_options
from .detection import add_widerface_options, run_detection
from .landmarks import add_landmark_options, run_landmarks
from .quality import configure_quality
from .recognition import add_people_options, run_recognition

__all__ = [
    "configure",
    "run",
]


_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per model, with the options of its metric."""
    models = parser.add_subparsers(dest="model", metavar="MODEL", required=True)
    scrfd = models.add_parser(
        "scrfd",
        help="average precision on WIDER FACE",
        description="Average precision on the WIDER FACE validation set.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    add_widerface_options(scrfd, with_inference=True)
    scrfd.set_defaults(evaluate=run_detection)
    landmarks = models.add_parser(
        "landmarks",
        aliases=["pipnet"],
        help="normalised error, failure rate and area under the curve on WFLW",
        description="Landmark metrics of a result file, or of a model on WFLW's photos, with "
        "subsets.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    add_landmark_options(landmarks)
    add_reading_options(landmarks)
    landmarks.set_defaults(evaluate=run_landmarks)
    people = models.add_parser(
        "verification",
        help="recognition accuracy of a protocol's pairs, or over a folder of people",
        description="Accuracy over the pairs of a protocol, in its folds; or over all genuine "
        "pairs of a folder of people and as many or all impostor pairs.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    add_people_options(people)
    add_reading_options(people)
    people.set_defaults(evaluate=run_recognition)
    configure_quality(models, parser.formatter_class)


def run(args: argparse.Namespace) -> int:
    """Run the evaluation of the sub-command."""
    return int(args.evaluate(args))
