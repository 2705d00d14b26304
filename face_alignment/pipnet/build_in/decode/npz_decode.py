"""Turn vamp's outputs into landmarks and metrics: the files and numbers of the runner.

Writes SAVE_DIR/results.json, and with --data_dir SAVE_DIR/metrics.json. Every output is paired with
its crop by the list's manifest, and a mismatch is reported by name.
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.evaluation import landmarks as evaluation
from facezoo.models.pipnet.card import CARDS
from facezoo.models.pipnet.decode import decode, read_meanface
from facezoo.models.pipnet.model import with_meanface
from facezoo.pipeline.decode_outputs import ListedOutputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    # The original recipe's command has one dash here.
    options.add_flag(
        parser,
        "--input_npz_path",
        "-input_npz_path",
        type=Path,
        required=True,
        help="vamp's list, made with image2npz.py on the crops",
    )
    options.add_flag(parser, "--out_npz_dir", type=Path, required=True, help="vamp's outputs")
    options.add_input_size_option(parser, "--input_shape")
    help_ignored = "accepted and ignored: outputs are always vamp's"
    options.add_flag(parser, "--vamp_flag", action="store_true", help=help_ignored)
    options.add_flag(parser, "--data_dir", type=Path, help="WFLW's crops, for the metrics")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    options.add_flag(
        parser, "--meanface_txt", type=Path, help="mean face to use in place of the model's own"
    )
    options.add_normalizer_option(parser)
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    listed = ListedOutputs(
        args.input_npz_path,
        args.out_npz_dir,
        CARDS.values(),
        image_dir=args.data_dir and args.data_dir / evaluation.TEST_CROPS,
        input_hw=args.input_shape,
    )
    constants = dict(listed.contract.decode)
    if args.meanface_txt:
        constants = with_meanface(constants, read_meanface(args.meanface_txt))
    settings = listed.settings()
    settings["contract"]["decode"] = constants

    def finish(run):
        head = {"crop": "annotation"}
        run.write_items(evaluation.RESULTS_FILE, evaluation.RESULTS_SCHEMA, "images", head)

    def evaluate():
        if args.data_dir:
            report = evaluation.evaluate_run(args.save_dir, args.data_dir, args.normalizer)
            print("\n".join(report.lines()))

    return options.run_items(
        args,
        listed.inputs(args.data_dir, args.meanface_txt),
        lambda left: listed.stream(left, lambda raw: decode(raw, **constants)[0]),
        names=listed.names,
        items=listed.pictures,
        command="npz_decode",
        settings=settings,
        finish=finish,
        afterwards=evaluate,
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
