"""Turn vamp's outputs into landmarks and metrics: the files and numbers of the runner.

Writes SAVE_DIR/results.json, and with --data_dir SAVE_DIR/metrics.json. Every output is paired with
its crop by the list's manifest, and whatever does not fit is refused by name.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from facezoo.backends.base import naming
from facezoo.cli import options
from facezoo.errors import ImageError
from facezoo.evaluation import landmarks as evaluation
from facezoo.files import sha256_of
from facezoo.metrics.landmarks import NORMALIZERS
from facezoo.models.pipnet.card import CARDS
from facezoo.models.pipnet.decode import decode, read_meanface
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder
from facezoo.workers import map_in_order, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    # The seed's own command has one dash here.
    options.add_flag(
        parser,
        "--input_npz_path",
        "-input_npz_path",
        type=Path,
        required=True,
        help="vamp's list, made with image2npz.py on the crops",
    )
    options.add_flag(parser, "--out_npz_dir", type=Path, required=True, help="vamp's outputs")
    options.add_flag(parser, "--input_shape", type=int, nargs=2, metavar=("H", "W"), help="input")
    options.add_flag(
        parser, "--vamp_flag", action="store_true", help="always so: outputs are vamp's"
    )
    options.add_flag(parser, "--data_dir", type=Path, help="WFLW's crops, for the metrics")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    options.add_flag(parser, "--meanface_txt", type=Path, help="in place of the model's own")
    parser.add_argument("--normalizer", choices=NORMALIZERS, default="WFLW", help="of the NME")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    images = args.data_dir and args.data_dir / evaluation.TEST_CROPS
    pictures = read_pictures(args.input_npz_path, images)
    outputs = OutputFolder(args.out_npz_dir, args.input_npz_path)
    contract = outputs.contract_for(CARDS.values(), args.input_shape and tuple(args.input_shape))
    constants = dict(contract.decode)
    if args.meanface_txt:
        constants["meanface"] = read_meanface(args.meanface_txt).tolist()

    def one(picture):
        if picture.error:
            return ImageError(f"{picture.name!r} {picture.error}")
        with naming(picture.name):
            return decode(outputs.raw_outputs(picture, contract), **constants)[0]

    others = (args.input_npz_path, args.out_npz_dir, args.data_dir, args.meanface_txt)
    with RunFolder(
        args.save_dir,
        command="npz_decode",
        settings={
            "contract": {**dataclasses.asdict(contract), "decode": constants},
            "datalist_sha256": sha256_of(args.input_npz_path),
        },
        inputs=Inputs(outputs.paths, [path.name for path in outputs.paths], *others),
        overwrite=args.overwrite,
    ) as folder:
        names = [picture.name for picture in pictures]
        done = folder.completed(names)
        started = time.perf_counter()
        results = map_in_order(one, pictures[done:], usable_cores())
        shown = options.progress(results, len(pictures) - done, args.quiet)
        for landmarks, name in zip(shown, names[done:]):
            folder.record(name, landmarks)
        seconds = time.perf_counter() - started
        if not folder.finished:
            head = {"crop": "annotation"}
            folder.write_items(evaluation.RESULTS_FILE, evaluation.RESULTS_SCHEMA, "images", head)
            folder.finish()
        code = options.report_run(folder, len(pictures), done, seconds)
        if args.data_dir:
            report = evaluation.evaluate_run(args.save_dir, args.data_dir, args.normalizer)
            print("\n".join(report.lines()))
        return code


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
