"""Cut WFLW's faces and normalise their landmarks as PIPNet's authors do.

Writes SAVE_DIR/images_train, images_test, train.txt, test.txt, test_<subset>.txt, meanface.txt and
crops.json (where each crop lies). Resumable: run the same command again.
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets import wflw
from facezoo.errors import DatasetError, ImageError
from facezoo.files import write_bytes
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models.pipnet.decode import compute_meanface, format_meanface
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--data_dir", type=Path, required=True, help="WFLW's lists, and WFLW_images"
    )
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    help_lists = "write the lists without cutting crops; images may be missing"
    options.add_flag(parser, "--lists_only", action="store_true", help=help_lists)
    parser.add_argument("--rects", type=Path, help="JSON, rectangles for lists that have none")
    options.add_run_options(parser)
    return parser


def write_lists(folder, crops, faces, members):
    sizes = {crop["path"]: crop["image_hw"] for crop in crops if "error" not in crop}
    wflw.write_crop_lists(folder, faces, members, sizes)
    if (folder / "train.txt").exists():
        points = wflw.read_normalised_list(folder / "train.txt").points_xy
        write_bytes(folder / "meanface.txt", format_meanface(compute_meanface(points)).encode())
    unclipped = sum(size is None for size in sizes.values())
    if unclipped:
        print(f"{unclipped} images are missing: points right of or below them were not clipped")


def run(args: argparse.Namespace) -> int:
    lists = wflw.find_lists(args.data_dir)
    faces, members = wflw.name_crops(lists, wflw.read_rectangles(args.rects) if args.rects else {})
    names = list(faces)
    picture_of = {name: args.data_dir / "WFLW_images" / faces[name].image for name in names}
    inputs = {**lists, **({"rects": args.rects} if args.rects else {}), **picture_of}

    def files_of(name):
        if not args.lists_only:
            split = "train" if name.startswith("wflw_train") else "test"
            yield args.save_dir / f"images_{split}" / name

    def one(name):
        try:
            if args.lists_only and not picture_of[name].exists():
                return wflw.WflwCrop.of(faces[name], None)
            image = read_image_rgb(picture_of[name])
            crop = wflw.WflwCrop.of(faces[name], image.shape[:2])
        except (ImageError, DatasetError) as error:
            return ImageError(str(error))
        for path in files_of(name):
            write_image_rgb(path, crop.cut(image))
        return crop

    def finish(run):
        crops = list(run.entries())
        run.write_items("crops.json", schema="facezoo.crops/1", key="crops")
        write_lists(args.save_dir, crops, faces, members)

    return options.run_items(
        args,
        Inputs(list(inputs.values()), list(inputs), args.data_dir),
        lambda left: map(one, left),
        names=names,
        items=names,
        command="preprocess_wflw",
        settings={"lists_only": args.lists_only},
        files_of=files_of,
        finish=finish,
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
