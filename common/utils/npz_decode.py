"""List what vamp wrote, image by image, and check every file; with --save_dir decode it too.

A file that is missing, extra, stale, cut short, renamed or exchanged is named and refused. Decoding
writes SAVE_DIR/results.json as infer.py does, for a model whose recipe has no build_in/decode. The
same as ``facezoo decode``.
"""

import argparse

from facezoo.cli.decode import configure, run
from facezoo.cli.options import make_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    configure(parser)
    return parser


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
