"""Cut the middle square of images, and make copies that are worse by known amounts, per person.

Writes SAVE_DIR/images, faces.txt (path and number of the person), references.txt (the images
that are not copies) and copies.txt (a copy and what it was made from). Resumable: run the same
command again.

    python ../source_code/make_degraded_set.py --image_dir att_faces --save_dir faces/test \
        --people 21 30
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.degraded import choose_people, degraded_faces, write_lists
from facezoo.datasets.image_list import people_of
from facezoo.errors import ImageError
from facezoo.fields import whole
from facezoo.image.align import TEMPLATE_SIZE
from facezoo.image.degrade import DEGRADATIONS, LEVEL, check_level
from facezoo.image.files import find_images, names_with_suffix, relative_names, write_image_rgb
from facezoo.machine import usable_cores
from facezoo.runs import Inputs
from facezoo.workers import map_in_order


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--image_dir", type=Path, required=True, help="images, one folder per person"
    )
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the set")
    help_people = "which people to take, from 1, in the order of their names; all by default"
    parser.add_argument(
        "--people", type=whole(1, 10**6), nargs=2, metavar=("FIRST", "LAST"), help=help_people
    )
    parser.add_argument("--kind", choices=DEGRADATIONS, default="blur", help="kind of degradation")
    help_levels = "how much; blur: sigma in pixels of the 112x112 face"
    parser.add_argument("--levels", type=LEVEL, nargs="*", default=[1, 2, 3.5, 5], help=help_levels)
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    for level in args.levels:
        check_level(args.kind, level)
    paths = find_images(args.image_dir)
    names = relative_names(paths, args.image_dir)
    person_of = dict(zip(names, people_of(names, str(args.image_dir))))
    people = choose_people(person_of.values(), *(args.people or ()))
    paths = [path for path, name in zip(paths, names) if person_of[name] in people]
    names = relative_names(paths, args.image_dir)
    stem_of = names_with_suffix(names, "")

    def make(pair):
        name, path = pair
        person = people.index(person_of[name])
        try:
            made = degraded_faces(path, stem_of[name], person, args.kind, args.levels)
            for file, image in made.images.items():
                write_image_rgb(args.save_dir / "images" / file, image)
        except ImageError as error:
            return error
        return made

    def finish(run):
        write_lists(args.save_dir, run.entries())
        run.write_items("faces.json", schema="facezoo.degraded/1", key="images")

    return options.run_items(
        args,
        Inputs(paths, names, args.image_dir),
        lambda left: map_in_order(make, left, usable_cores()),
        names=names,
        items=list(zip(names, paths)),
        command="make_degraded_set",
        room=len(paths) * (1 + len(args.levels)) * 3 * TEMPLATE_SIZE**2,
        settings={"people": people, "kind": args.kind, "levels": args.levels},
        finish=finish,
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
