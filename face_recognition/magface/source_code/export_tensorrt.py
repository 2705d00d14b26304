"""Build a TensorRT engine from any exported .onnx, check it, and lay it out for Triton.

Needs NVIDIA's trtexec or polygraphy; the engine is compared with ONNX Runtime before it is kept. A
fixed batch size of the graph goes before --max_batch. Not tested on a GPU.

    python export_tensorrt.py --onnx onnx/magface_iresnet100.onnx --engine magface.plan
    python export_tensorrt.py --onnx onnx/w600k_mbf.onnx --repository triton
"""

import argparse
from pathlib import Path

from facezoo.cli.options import BATCH_SIZE, add_flag, add_output, make_parser, run_command
from facezoo.contract import read_contract
from facezoo.deploy import triton as serving
from facezoo.errors import InputError
from facezoo.models import find_card


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--onnx", type=Path, required=True, help="written by export_onnx.py")
    add_output(parser, "--engine", help="the engine to write")
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="Triton's model repository to write"
    )
    parser.add_argument("--fp16", action="store_true", help="allow half precision")
    add_flag(parser, "--max_batch", type=BATCH_SIZE, default=32, help="largest batch")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.engine is None and args.repository is None:
        raise InputError("nothing to do: give --engine FILE, --repository DIR, or both")
    card = find_card(read_contract(args.onnx).card_id)
    if args.engine:
        cosine = serving.build_engine(
            args.onnx, args.engine, half=args.fp16, max_batch=args.max_batch
        )
        print(f"{args.engine}: cosine {cosine:.6f} to ONNX Runtime")
    if args.repository:
        # The engine if there is one; else Triton runs the graph itself.
        model = args.engine or args.onnx
        folder = serving.write_repository(model, card, args.repository, args.onnx, args.max_batch)
        print(f"{folder}: config.pbtxt and version 1")
    return 0


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
