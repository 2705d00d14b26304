"""Turn a folder of images into the npz files and the list that vamp takes.

Writes TARGET_PATH/<folder>/<stem>.npz for every image at any depth, the sorted list TEXT_PATH,
and TEXT_PATH.manifest.json, by which a decoder finds the images again. The same as
``facezoo image2npz``.
"""

import argparse

from facezoo.cli.image2npz import configure, run
from facezoo.cli.options import make_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    configure(parser)
    return parser


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
