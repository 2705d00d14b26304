"""Average precision of predictions on the WIDER FACE validation set.

  python ../common/eval/evaluation.py -p runstream_output/ -g widerface/eval_tools/ground_truth

The same as ``facezoo evaluate scrfd``. The metric is facezoo.metrics.detection.evaluate_detections,
the files are read by facezoo.datasets.widerface.
"""

from facezoo.cli.evaluate.detection import evaluate_widerface
from facezoo.cli.evaluate.flags import add_detection_options
from facezoo.cli.options import make_parser, run_command


def build_parser():
    parser = make_parser(__doc__)
    add_detection_options(parser)
    return parser


def run(args):
    evaluate_widerface(args)
    return 0


def main(argv=None):
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
