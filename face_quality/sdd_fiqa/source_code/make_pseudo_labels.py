"""Make quality labels without labelling, from any recogniser's embeddings of folders of people.

Writes SAVE_DIR/labels.txt (path and label, 0 to 100) and embeddings.npz. Resumable: run the
same command again.

    python ../source_code/make_pseudo_labels.py --image_dir faces/train/images \
        --references faces/train/references.txt --copies faces/train/copies.txt \
        --save_dir labels/train
"""

import argparse
from pathlib import Path

import facezoo
from facezoo.cli import flags, options
from facezoo.datasets.degraded import write_labels
from facezoo.datasets.embeddings import write_embeddings
from facezoo.datasets.image_list import inside, read_image_list
from facezoo.errors import ImageError
from facezoo.evaluation.embeddings import PackedEmbedding, embed_pictures, unpack_embeddings
from facezoo.fields import SEED, whole
from facezoo.files import sha256_of
from facezoo.image.files import find_images, relative_names
from facezoo.models.sdd_fiqa.pseudo_labels import PAIRS, ROUNDS, label_pictures
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--image_dir", type=Path, required=True, help="images, one folder per person"
    )
    help_list = "list of images and numbers of people; by default all images, a person per folder"
    parser.add_argument("--list", type=Path, metavar="FILE", help=help_list)
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the labels")
    flags.add(parser, "--embedder", default="w600k_mbf", old=("--recognizer", "--recogniser"))
    flags.add(parser, "--embedder-card", old=("--recognizer_card", "--recogniser_card"))
    parser.add_argument("--references", type=Path, help="list of the images that may be partners")
    parser.add_argument("--copies", type=Path, help="list of copies, each with its original")
    parser.add_argument("--pairs", type=whole(0, 10**6), default=PAIRS, help="of each kind; 0: all")
    parser.add_argument("--rounds", type=whole(1, 1000), default=ROUNDS, help="draws to average")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of the draws")
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    listed = read_image_list(args.list) if args.list else None
    paths = find_images(args.image_dir)
    if listed:
        paths = [inside(args.image_dir, name) for name in listed.paths]
    names = relative_names(paths, args.image_dir)
    kind, card = facezoo.FaceEmbedder, args.embedder_card
    backend = facezoo.load(args.embedder, kind=kind, card=card).backend
    chosen = {"pairs": args.pairs or None, "rounds": args.rounds, "seed": args.seed}
    lists = {name: getattr(args, name) for name in ("list", "references", "copies")}
    hashes = {name: path and sha256_of(path) for name, path in lists.items()}

    def embed(left):
        for _, found in embed_pictures(backend, left):
            yield found if isinstance(found, ImageError) else PackedEmbedding(found.vector)

    def finish(run):
        found = unpack_embeddings(run.entries())
        people = listed and dict(zip(listed.paths, listed.labels.tolist()))
        partners = {"references": args.references, "copies": args.copies}
        labels = label_pictures(found, people, **partners, **chosen)
        write_labels(args.save_dir / "labels.txt", found.names, labels.labels)
        write_embeddings(args.save_dir / "embeddings.npz", found)

    with backend:
        return options.run_items(
            args,
            Inputs(paths, names, args.image_dir, args.embedder, *lists.values()),
            embed,
            command="make_pseudo_labels",
            settings={**backend.settings(), **chosen, **hashes},
            finish=finish,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
