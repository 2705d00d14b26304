"""Cut the faces of photos upright to 112x112, by the five points that SCRFD finds.

Writes SAVE_DIR/aligned/<photo>.png and SAVE_DIR/faces.json. Photos in which no face is found are
named and left out. Resumable: run the same command again.

    python ../../../common/utils/align_faces.py --photos photos --detector scrfd_500m_bnkps \
        --save_dir aligned
"""

import argparse
from pathlib import Path

import facezoo
from facezoo.cli import options
from facezoo.errors import ImageError
from facezoo.fields import whole
from facezoo.files import fitting_name
from facezoo.image.align import align_face
from facezoo.image.files import find_images, names_with_suffix, relative_names, write_image_rgb
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="a photo, or a folder of them")
    parser.add_argument("--detector", type=Path, required=True, metavar="PREFIX", help="SCRFD")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--size", type=whole(16, 4096), default=112, help="side of a face in pixels"
    )
    parser.add_argument(
        "--keep",
        choices=("largest", "central", "all"),
        default="largest",
        help="which faces of a photo; all are numbered: photo_0.png, photo_1.png",
    )
    options.add_run_options(parser, threads=True)
    return parser


def chosen(faces, keep):
    if keep == "all" or not len(faces):
        return range(len(faces))
    return [faces.central() if keep == "central" else faces.largest()]


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.photos)
    names = relative_names(paths, args.photos)
    name_of, stem_of = dict(zip(paths, names)), names_with_suffix(names, "")

    def cut(path, image, faces):
        for index in chosen(faces, args.keep):
            number = f"_{index}" if args.keep == "all" else ""
            target = fitting_name(f"aligned/{stem_of[name_of[path]]}{number}.png")
            write_image_rgb(
                args.save_dir / target, align_face(image, faces.landmarks_xy[index], args.size)
            )

    def find(left):
        for faces in detector.stream(left, visit=cut):
            if not isinstance(faces, ImageError) and not len(faces):
                faces = ImageError(f"{name_of[faces.source]!r} shows no face that SCRFD finds")
            yield faces

    with facezoo.load(args.detector, kind=facezoo.FaceDetector) as detector:
        return options.run_items(
            args,
            Inputs(paths, names, args.photos, args.detector),
            find,
            command="align_faces",
            room=len(paths) * 3 * args.size**2,
            settings={**detector.settings(), "size": args.size, "keep": args.keep},
            finish=lambda run: run.write_items("faces.json", "facezoo.faces/1", "images"),
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
