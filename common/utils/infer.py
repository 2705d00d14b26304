"""Apply a model to every image of a folder: the runner of a model whose recipe has none.

Writes SAVE_DIR/results.json, one entry per image. Resumable: run the same command again.

    python ../../../common/utils/infer.py --file_path photos --save_dir out \
        --model_prefix_path deploy_weights/NAME/mod
"""

import argparse
from pathlib import Path

import facezoo
from facezoo.cli import options
from facezoo.image.files import find_images, relative_names
from facezoo.runs import Inputs

RESULTS_FILE, RESULTS_SCHEMA = "results.json", "facezoo.results/1"


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--file_path", type=Path, required=True, help="image, or folder")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    options.add_model_options(parser)
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.file_path)
    names = relative_names(paths, args.file_path)
    runtime, vdsp = options.runtime_of(args), args.vdsp_params_info
    with facezoo.load(args.model_prefix_path, runtime=runtime, vdsp=vdsp) as model:
        head = {"card": model.contract.card_id}
        return options.run_items(
            args,
            Inputs(paths, names, args.file_path, args.model_prefix_path),
            model.stream,
            command="infer",
            settings=model.settings(),
            finish=lambda run: run.write_items(RESULTS_FILE, RESULTS_SCHEMA, "images", head),
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
