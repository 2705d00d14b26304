"""Train MagFace, Mag-CosFace or ArcFace on a list of aligned faces; resumable.

In one process, or in several with torchrun. --pth-save-fold gets checkpoints, weights that the
authors' loader and ours accept, tables and plots. Resumable: run the same command again.
"""

import argparse
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from facezoo import weights
from facezoo.cli import options
from facezoo.datasets.image_list import check_image_list, read_image_list
from facezoo.errors import InputError
from facezoo.models.magface import settings
from facezoo.models.magface.faces import InputFiles, TrainingFaces, read_face_pairs
from facezoo.reports.plots import plot_lengths
from facezoo.runs import Inputs, RunFolder


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    add, count = parser.add_argument, settings.COUNT
    options.add_flag(parser, "--train_list", type=Path, required=True, help="faces and labels")
    options.add_flag(parser, "--image_root", type=Path, help="folder that the paths start from")
    options.add_flag(parser, "--val_pairs", type=Path, help="lines 'first second 1' (or 0)")
    add("--embedding-size", type=settings.EMBEDDING_SIZE, default=512, help="size of the embedding")
    add("--last-fc-size", type=count, help="number of people, to be checked against the list")
    add("--pretrained", type=Path, help="checkpoint to start from, or its name")
    add("--measure-norms", type=count, help="only print the lengths of N embeddings")
    for kind in (settings.LossSettings, settings.TrainSettings, settings.RunSettings):
        for flags, how in settings.flags_of(kind):
            options.add_flag(parser, *flags, **how)
    add("--start-epoch", type=settings.EPOCH, default=0, help="epochs to skip")
    add("--workers", "-j", type=settings.WORKERS, default=4, help="readers of faces")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    add("--compile", action="store_true", help="use torch.compile")
    add("--pth-save-fold", type=Path, default=Path("test"), help="folder of the run")
    add("--resume", type=Path, nargs="?", const=False, help="the newest checkpoint, or this one")
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    training = options.import_torch_part("facezoo.models.magface.train")
    distributed = options.import_torch_part("facezoo.models.magface.distributed")
    new, how = settings.settings_of(vars(args)), settings.run_settings_of(vars(args))
    if args.measure_norms and not args.pretrained:
        raise InputError("--measure-norms needs --pretrained: fresh weights' lengths say nothing")
    images = read_image_list(args.train_list)
    check_image_list(images, args.image_root)
    if args.last_fc_size not in (None, images.classes):
        raise InputError(f"--last-fc-size {args.last_fc_size}, but {images.classes} in the list")
    faces = TrainingFaces(images, new.seed, args.image_root)
    pairs = read_face_pairs(args.val_pairs, args.image_root) if args.val_pairs else None
    args.pretrained = args.pretrained and weights.locate(args.pretrained)
    build = training.builder(new.arch, args.pretrained)
    if args.measure_norms:
        lengths = training.lengths_of(build(), faces, args.measure_norms, new.seed)
        print("\n".join(settings.describe_lengths(lengths)))
        return 0
    files = InputFiles(faces, pairs, args.train_list, args.val_pairs, args.pretrained)
    read = Inputs(files, files.names, args.image_root)
    to, lr = args.pth_save_fold, ["lr"] * (args.resume is not None)
    folder = RunFolder(to, "magface train", new.to_dict(), read, args.overwrite, (), lr, ["epochs"])
    options.import_torch_part("facezoo.models.resumable").keep_freed_memory()
    with distributed.Processes.started(args.device, new.precision) as processes:
        data = (faces, images.classes)
        trainer = training.Trainer(new, *data, build, processes, args.workers, args.compile)
        is_first = processes.rank == 0
        with folder if is_first else nullcontext():
            processes.wait()
            trainer.go_on(to, args.resume or None, args.start_epoch, folder.emptied, bool(lr))
            say = partial(print, flush=True) if is_first and not args.quiet else str
            done = trainer.run(to, how, say=say, pairs=pairs, plot=plot_lengths)
            if done and is_first:
                folder.finish()
    if is_first:
        state = "done" if done else "stopped"
        print(f"{state}: {trainer.step} of {trainer.steps} batches; in {to}")
    return trainer.deliver()


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
