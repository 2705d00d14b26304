"""Find faces in an image or a folder of images.

Writes SAVE_DIR/txt/<event>/<stem>.txt in the WIDER FACE layout, SAVE_DIR/results.json, and with
--draw SAVE_DIR/pictures. Resumable: run the same command again.
"""

import argparse
import dataclasses
from pathlib import Path

import facezoo
from facezoo.cli import options
from facezoo.datasets.widerface import format_widerface
from facezoo.fields import number
from facezoo.files import write_bytes
from facezoo.image.draw import draw_faces, write_drawing
from facezoo.image.files import find_images, names_with_suffix, relative_names
from facezoo.models.scrfd.decode import PROFILES
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--file_path", type=Path, required=True, help="an image or folder")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    parser.add_argument("--profile", choices=PROFILES, default="demo", help="set of thresholds")
    options.add_flag(
        parser,
        "--retry_border",
        type=number(0, 100),
        metavar="PERCENT",
        help="retry an image without a face with a border of this share of its sides; 0 for "
        "never; by default 25 in the profile demo, else 0",
    )
    parser.add_argument("--draw", action="store_true", help="also write annotated images")
    fast = "read large JPEGs at 1/2, 1/4 or 1/8: faster, slightly different faces"
    options.add_flag(parser, "--fast_decode", action="store_true", help=fast)
    options.add_model_options(parser)
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.file_path)
    names = relative_names(paths, args.file_path)
    name_of = dict(zip(paths, names))
    text_of, picture_of = names_with_suffix(names, ".txt"), names_with_suffix(names, ".jpg")
    profile = PROFILES[args.profile]
    if args.retry_border is not None:
        profile = dataclasses.replace(profile, retry_border=args.retry_border / 100)

    def files_of(name):
        yield args.save_dir / "txt" / text_of[name]
        if args.draw:
            yield args.save_dir / "pictures" / picture_of[name]

    def write(path, image, faces):
        name = name_of[path]
        text, *pictures = files_of(name)
        write_bytes(text, format_widerface(name, faces).encode())
        for picture in pictures:
            write_drawing(picture, draw_faces(image, faces.resized(image.shape[:2])))

    with facezoo.load(
        args.model_prefix_path,
        kind=facezoo.FaceDetector,
        runtime=options.runtime_of(args),
        vdsp=args.vdsp_params_info,
        profile=profile,
        fast_decode=args.fast_decode,
    ) as model:
        return options.run_items(
            args,
            Inputs(paths, names, args.file_path, args.model_prefix_path),
            lambda left: model.stream(left, visit=write),
            command="scrfd_vsx",
            settings={**model.settings(), "draw": args.draw},
            files_of=files_of,
            finish=lambda run: run.write_items("results.json", "facezoo.faces/1", "images"),
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
