"""Make the raw-head ONNX that vamc takes, from a checkpoint or from a community ONNX.

Nothing is written before the new graph has been compared with its source in ONNX Runtime.

    python ../source_code/export_onnx.py --onnx pipnet_r18_wflw_98 --output onnx/pip_resnet18.onnx
"""

import argparse
from pathlib import Path

from facezoo import weights
from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.models.pipnet.graph import BACKBONE_OF, export_released
from facezoo.models.pipnet.settings import INPUT_SIZE, NET_STRIDE, NUM_NEIGHBORS


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_source_options(parser)
    options.add_batch_option(parser)
    help_meanface = "mean face of the network's data set; by default WFLW's"
    options.add_flag(parser, "--meanface_txt", type=Path, help=help_meanface)
    network = parser.add_argument_group("network of a checkpoint; an ONNX contains these facts")
    network.add_argument("--backbone", choices=sorted(BACKBONE_OF.values()))
    options.add_flag(network, "--num_neighbors", type=NUM_NEIGHBORS, default=10, help="as trained")
    options.add_flag(network, "--input_size", type=INPUT_SIZE, default=256, help="side in pixels")
    options.add_flag(network, "--net_stride", type=NET_STRIDE, default=32, help="pixels per cell")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.onnx:
        contract, correlation = export_released(
            weights.locate(args.onnx),
            args.output,
            meanface_txt=args.meanface_txt,
            batch=args.batch,
        )
        print(f"the mean face explains its neighbours: correlation {correlation:.2f}")
    else:
        if args.backbone is None:
            raise InputError("a checkpoint does not say its backbone; give --backbone")
        checkpoint = options.import_torch_part("facezoo.models.pipnet.checkpoint")
        contract, worst = checkpoint.export_checkpoint(
            weights.locate(args.checkpoint),
            args.backbone,
            args.output,
            meanface_txt=args.meanface_txt,
            num_neighbors=args.num_neighbors,
            input_size=args.input_size,
            net_stride=args.net_stride,
            batch=args.batch,
        )
        print(f"largest difference from torch, of the output's root mean square: {worst:.2e}")
    print(f"{args.output}: {contract.card_id}, outputs {' '.join(contract.output_names)}")
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
