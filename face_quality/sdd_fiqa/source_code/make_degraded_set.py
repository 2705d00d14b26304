"""Cut the middle square of images, and make copies that are worse by known amounts, per person.

Writes SAVE_DIR/images, faces.txt (path and number of the person), references.txt (the images
that are not copies) and copies.txt (a copy and what it was made from). Resumable: run the same
command again.

    python ../source_code/make_degraded_set.py --image_dir att_faces --save_dir faces/test
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets import degraded
from facezoo.datasets.image_list import people_of
from facezoo.datasets.protocols import people_in_folds
from facezoo.errors import InputError
from facezoo.fields import SEED, whole
from facezoo.image.align import TEMPLATE_SIZE
from facezoo.image.degrade import DEGRADATIONS, LEVEL
from facezoo.image.files import find_images, names_with_suffix, relative_names
from facezoo.machine import usable_cores
from facezoo.runs import Inputs
from facezoo.workers import map_in_order

NUMBER, RANGE = whole(1, 10**6), {"type": whole(1, 10**6), "nargs": 2, "metavar": ("FIRST", "LAST")}
HELP_LEVELS = "how much of one kind; by default those of facezoo evaluate quality-response"


def build_parser() -> argparse.ArgumentParser:
    parser, where = options.make_parser(__doc__), {"type": Path, "required": True}
    options.add_flag(parser, "--image_dir", help="images, one folder per person", **where)
    options.add_flag(parser, "--save_dir", help="folder for the set", **where)
    flag, kinds = parser.add_argument, {"nargs": "+", "choices": DEGRADATIONS, "default": ["blur"]}
    flag("--people", help="numbers of people in the order of their names, from 1", **RANGE)
    flag("--pairs", type=Path, metavar="LIST", help="take people of a protocol such as pairs.txt")
    flag("--folds", help="folds of --pairs, from 1; all by default", **RANGE)
    flag("--least", type=NUMBER, default=1, help="leave out people with fewer images")
    flag("--most", type=NUMBER, default=10**6, help="images of a person, the first ones")
    flag("--kind", help="kind of degradation; several need --draws", **kinds)
    flag("--levels", type=LEVEL, nargs="*", help=HELP_LEVELS)
    flag("--draws", type=whole(0, 100), default=0, help="instead, copies at levels drawn at random")
    flag("--seed", type=SEED, default=0, help="random seed of --draws")
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.folds and not args.pairs:
        raise InputError("--folds needs --pairs, the list that has folds")
    wanted = (args.kind, args.levels, args.draws, args.seed)
    copies = degraded.copier(*wanted)
    paths = find_images(args.image_dir)
    names = relative_names(paths, args.image_dir)
    person_of = dict(zip(names, people_of(names, str(args.image_dir))))
    among = people_in_folds(args.pairs, *(args.folds or ())) if args.pairs else None
    span = args.people or ()
    people = degraded.choose_people(person_of.values(), *span, least=args.least, among=among)
    number_of = {person: number for number, person in enumerate(people)}
    kept = degraded.first_images(person_of, people, args.most)
    path_of, stem_of = dict(zip(names, paths)), names_with_suffix(kept, "")

    def make(name):
        path, stem, number = path_of[name], stem_of[name], number_of[person_of[name]]
        return degraded.write_degraded(path, args.save_dir, stem, number, copies(name))

    def finish(run):
        degraded.write_lists(args.save_dir, run.entries())
        run.write_items("faces.json", schema="facezoo.degraded/1", key="images")

    return options.run_items(
        args,
        Inputs([path_of[name] for name in kept], kept, args.image_dir, args.pairs),
        lambda left: map_in_order(make, left, usable_cores()),
        names=kept,
        items=kept,
        command="make_degraded_set",
        room=len(kept) * (1 + len(copies(""))) * 3 * TEMPLATE_SIZE**2,
        settings={"people": people, "most": args.most, "copies": wanted},
        finish=finish,
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
