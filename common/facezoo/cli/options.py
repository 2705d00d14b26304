"""What all commands share: spelling of flags, messages, exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from types import FrameType
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from ..backends import ENGINES, RuntimeOptions
from ..errors import BackendUnavailable, FaceZooError, InputError
from ..fields import DEVICE_OR_PROVIDER, SIDE, Number, whole
from ..files import DIGITS, check_room, counted, find_hashed, printable, sha256_of, write_hashed
from ..image.reading import reading
from ..machine import SharedSetting, granted_cores, limited_cores, opencv_threads, usable_cores
from ..runs import Inputs, ItemCounts, Outcome, RunFolder
from ..system import SIGPIPE
from ..written import asked_for
from . import flags
from .outputs import (
    OutputFile,
    PlotFile,
    check_outputs,
    is_quiet,
    output_files,
    printing,
    refuse_over_inputs,
)

__all__ = [
    "BATCH_SIZE",
    "EXIT_SOME_REFUSED",
    "EXIT_UNEXPECTED",
    "CommandParser",
    "add_batch_option",
    "add_embedder_options",
    "add_embedding_size_option",
    "add_flag",
    "add_image_dir_option",
    "add_input_size_option",
    "add_model_options",
    "add_normalizer_option",
    "add_output",
    "add_plot",
    "add_run_options",
    "add_runtime_options",
    "add_saturation_option",
    "add_settings_options",
    "add_shape_options",
    "add_source_options",
    "add_threads_option",
    "add_vamp_options",
    "embedder_source",
    "import_torch_part",
    "make_parser",
    "progress",
    "report_items",
    "report_unexpected",
    "run_command",
    "run_items",
    "runtime_of",
    "settings_from",
    "showing",
    "steps_of",
    "torch_advice",
]

EXIT_SOME_REFUSED = 1
EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h

BATCH_SIZE = whole(1, 65536)

OLDEST_OF_TORCH = (3, 10)  # As in pyproject.toml.

# Between two lines of progress where there is no terminal.
SECONDS_PER_LINE = 60.0

# How long Ctrl-C and SIGTERM wait for the images in process.
STOP_SECONDS = 10.0

_MAKE_ROOM = "; free space there and run the same command again"
_NAME_ANOTHER = "; move what is there away or name another place"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _MAKE_ROOM),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), _NAME_ANOTHER),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "; allow it or name another place"),
}

_log = logging.getLogger(__name__)
_package = logging.getLogger("facezoo")
_log_level: SharedSetting[int] = SharedSetting(lambda: _package.level, _package.setLevel)

Item = TypeVar("Item")
Settings = TypeVar("Settings")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any, and wraps at a readable width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        default = action.default
        # A default of 0 is shown, one that is False is not.
        if default is False or default in (None, [], argparse.SUPPRESS) or action.required:
            return action.help
        return super()._get_help_string(action)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.option_strings and action.nargs == argparse.OPTIONAL:
            return str(action.metavar or default_metavar)
        return super()._format_args(action, default_metavar)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        if isinstance(action.type, Number):
            return "N" if action.type.parse is int else "X"
        return "PATH" if action.type is Path else "NAME"


class CommandParser(argparse.ArgumentParser):
    """A parser with the flags that every command and sub-command has.

    Old spellings of flags are replaced before they are parsed. A wrong flag or word is answered by
    the usage of the verb it was given to, and by what was probably meant.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Without a default, so that a sub-command does not overwrite what its command was given.
        for name in ("--quiet", "--verbose"):
            flags.add(self, name, action="store_true", default=argparse.SUPPRESS)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; what is left over is reported by the sub-command that it was given to."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            chosen = chosen_parser(self, found)
            flag = next((word for word in rest if word.startswith("-")), "")
            near = chosen.near(flag) if flag and isinstance(chosen, CommandParser) else ""
            chosen.error(f"unrecognized arguments: {' '.join(rest)}{near}")
        return found

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> Tuple[argparse.Namespace, List[str]]:
        """Parse with old spellings of flags replaced; they are listed in ``old_spellings``."""
        words, old = flags.renamed(sys.argv[1:] if args is None else args, self)
        self._refuse_unknown(words)
        found, rest = super().parse_known_args(words, namespace)
        said = [f"{self.prog}: {was} is spelled {now} now" for was, now in old]
        found.old_spellings = [*getattr(found, "old_spellings", ()), *said]
        return found, rest

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        if self._subparsers is not None:
            return  # The words after the verb are the verb's.
        for word in words:
            name = word.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and name not in self._option_string_actions:
                self.error(f"unrecognized arguments: {word}{self.near(name)}")

    def near(self, flag: str) -> str:
        """Return the most similar flags of this parser as a question to append to a message."""
        spelled = {name: name for action in self._actions for name in action.option_strings}
        return nearest(flag.partition("=")[0], {**flags.old_spellings(self), **spelled})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = {str(choice): str(choice) for choice in action.choices}
            near = nearest(str(value), choices)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}{near} (choose from {', '.join(choices)})"
            )


def chosen_parser(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> argparse.ArgumentParser:
    """Return the parser of the verb and sub-command that were chosen."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices.get(getattr(args, action.dest, None) or "")
            if inner is not None:
                return chosen_parser(inner, args)
    return parser


def nearest(word: str, known: Mapping[str, str]) -> str:
    """Return what the most similar words mean, as a question to append to a message."""
    # Imported here because only a wrong word needs it.
    import difflib

    found = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    near = list(dict.fromkeys(known[one] for one in found))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def make_parser(doc: Optional[str]) -> CommandParser:
    """Make a parser described by the first paragraph of a module's docstring."""
    description = (doc or "").strip().split("\n\n")[0]
    return CommandParser(
        description=description, formatter_class=_HelpFormatter, allow_abbrev=False
    )


def steps_of(
    parser: argparse.ArgumentParser, steps: Mapping[str, Callable[[argparse.Namespace], int]]
) -> Callable[[str, str], argparse.ArgumentParser]:
    """Give a verb steps, of which a command line names one.

    Parameters
    ----------
    parser
        The verb's.
    steps
        Name to what the step does; it is in ``args.run_step``.

    Returns
    -------
    callable
        ``add(name, help)``: declare a step, return its parser.
    """
    kinds = parser.add_subparsers(dest="step", metavar="STEP", required=True)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        step: argparse.ArgumentParser = kinds.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        step.set_defaults(run_step=steps[name])
        return step

    return add


def add_flag(parser: Any, *names: str, **options: Any) -> None:
    """Add a flag under the vendor's spelling and under the dashed one.

    Parameters
    ----------
    parser
        A parser or an argument group.
    names
        Spellings; every ``--with_underscore`` also becomes ``--with-underscore``.
    options
        For ``add_argument``.
    """
    dashed = [name.replace("_", "-") for name in names if name.startswith("--")]
    spellings = list(dict.fromkeys([*names, *dashed]))
    parser.add_argument(*spellings, **options)


def add_output(parser: Any, *names: str, **options: Any) -> None:
    """Add a flag that names a file to write, which :func:`run_command` does not let be an input.

    Parameters
    ----------
    parser, names, options
        As for :func:`add_flag`.
    """
    add_flag(parser, *names, action=OutputFile, **options)


def add_plot(parser: Any, help_text: str) -> None:
    """Add ``--plot``; its suffix and matplotlib are checked before the work."""
    add_flag(parser, "--plot", action=PlotFile, metavar="FILE", help=help_text)


def add_model_options(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """Add the flags that choose the model and its runtime; aliases name the model's."""
    group = parser.add_argument_group("model")
    add_flag(
        group,
        "--model_prefix_path",
        *aliases,
        required=True,
        type=Path,
        metavar="PREFIX",
        help="artifact prefix such as deploy_weights/NAME/mod, an .onnx file, or a card's name",
    )
    add_flag(
        group,
        "--vdsp_params_info",
        type=Path,
        metavar="JSON",
        help="vdsp_params file of the pre-processing (default: that of the model)",
    )
    add_runtime_options(group)


def add_runtime_options(group: Any) -> None:
    """Add the flags that choose the runtime of a model; :func:`runtime_of` reads them."""
    group.add_argument("--engine", choices=ENGINES, default="auto", help="runtime")
    add_flag(
        group, "--device_id", "--device", type=DEVICE_OR_PROVIDER, default=0, help="device number"
    )
    group.add_argument("--provider", default="cpu", help="execution provider of ONNX Runtime")
    group.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        default="f32",
        help="arithmetic of OpenVINO; bf16 is faster on CPUs that have it",
    )
    add_saturation_option(group)
    add_threads_option(group)


def add_saturation_option(group: Any) -> None:
    """Add the flag that opens int8 builds of full range where they lose accuracy."""
    group.add_argument(
        "--allow-saturation",
        action="store_true",
        help="open an int8 build of full range on a CPU whose 8-bit sums saturate, at a loss",
    )


def add_threads_option(parser: Any) -> None:
    """Add the flag that limits the cores; :func:`run_command` reads it."""
    flags.add(parser, "--threads")


def add_embedder_options(parser: argparse.ArgumentParser) -> Any:
    """Add the flags that choose the recogniser; :func:`embedder_source` reads them.

    Returns
    -------
    argument group
        The group of the three sources, of which at most one may be given.
    """
    group = parser.add_argument_group("model")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--resume",
        type=Path,
        metavar="CKPT",
        help="a checkpoint, or the name `facezoo list` shows it under; needs torch",
    )
    source.add_argument("--onnx", type=Path, help="a graph written by export_onnx.py")
    add_flag(source, "--model_prefix_path", type=Path, metavar="PREFIX", help="an artifact")
    group.add_argument("--arch", default="iresnet100", help="architecture of the checkpoint")
    group.add_argument(
        "--flip", choices=("none", "sum"), default="none", help="add the mirrored face's embedding"
    )
    add_flag(
        group,
        "--batch_size",
        type=BATCH_SIZE,
        default=1,
        metavar="N",
        help="images per run of the network; with 1 each core runs its own, the fastest on a CPU",
    )
    add_flag(group, "--vdsp_params_info", type=Path, metavar="JSON", help="pre-processing")
    add_runtime_options(group)
    return source


def embedder_source(args: argparse.Namespace, workspace: Path) -> Path:
    """Return the file or prefix that the flags of :func:`add_embedder_options` name.

    Parameters
    ----------
    args
        Parsed.
    workspace
        A checkpoint is exported into it, once, and compared with PyTorch.

    Returns
    -------
    Path
        For :func:`facezoo.load`.

    Raises
    ------
    InputError
        If none is named.
    WeightsMissing
        If the checkpoint is one that the zoo knows and it is not here.
    """
    # Imported here because it takes most of a command's start.
    from .. import weights

    source: Optional[Path] = args.onnx or args.model_prefix_path
    if args.resume:
        source = _exported(weights.locate(args.resume), args.arch, workspace)
    if source is None:
        raise InputError("which network? give --resume CKPT, --onnx FILE or --model_prefix_path")
    return source


def _exported(checkpoint: Path, arch: str, workspace: Path) -> Path:
    """Return the graph of a checkpoint, made by this start or by an earlier one."""
    sha256 = sha256_of(checkpoint) if checkpoint.is_file() else ""
    # The name may be as long as names can be; the hash tells files apart.
    stem = f"{checkpoint.stem[:40]}_{arch}-{sha256[:DIGITS]}"
    found = find_hashed(workspace, stem, ".onnx")
    if found is None:
        part = import_torch_part("facezoo.models.magface.checkpoint")
        with tempfile.TemporaryDirectory(prefix="facezoo-") as folder:
            graph = Path(folder) / "graph.onnx"
            worst = part.export_checkpoint(checkpoint, arch, graph)
            found = write_hashed(workspace, stem, ".onnx", graph.read_bytes())
        print(f"{found}: from {checkpoint}, largest difference from torch {worst:.2e}")
    return found


def runtime_of(args: argparse.Namespace) -> RuntimeOptions:
    """Return the values of the flags of :func:`add_runtime_options`."""
    return RuntimeOptions(
        engine=args.engine,
        device_id=args.device if "device" in args else args.device_id,
        provider=args.provider,
        precision=args.precision,
        allow_saturation=args.allow_saturation,
    )


def add_shape_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` and ``--size`` of the export scripts; None means free."""
    add_batch_option(parser)
    flags.add(
        parser,
        "--size",
        "a side, or HEIGHTxWIDTH, or dynamic (default: dynamic)",
        dynamic=True,
        pair=True,
    )


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint`` and ``--onnx`` of an export script, one of them required, ``--output``.

    Each source is a file, or the name it was downloaded under.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", help="a .pth, or the name `facezoo list` shows it under; needs torch"
    )
    source.add_argument(
        "--onnx", help="a published .onnx, or the name `facezoo download` fetched it under"
    )
    add_output(parser, "--output", required=True, help="the .onnx to write")
    add_threads_option(parser)


def add_vamp_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name vamp's list, its outputs, and the folder of the images."""
    add_flag(parser, "--vamp_datalist_path", type=Path, required=True, help="vamp's list")
    add_flag(parser, "--vamp_output_dir", type=Path, required=True, help="vamp's outputs")
    add_image_dir_option(parser)


def add_embedding_size_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--embedding_size`` of scripts that read a list of features."""
    kind = whole(1, 65536)
    help_size = "values per feature (default: as many as the first has)"
    add_flag(parser, "--embedding_size", type=kind, help=help_size)


def add_input_size_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the flag for the size of the network that made vamp's outputs, under a script's name."""
    text = "height and width of the network's input"
    add_flag(parser, name, type=SIDE, nargs=2, metavar=("H", "W"), help=text)


def add_settings_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add a flag for each field of a dataclass of settings; :func:`settings_from` reads them.

    Parameters
    ----------
    parser
        The script's.
    kind
        Every field has a default, and ``help`` and the like in its metadata.
    """
    for field in dataclasses.fields(kind):
        how = {"default": field.default, **field.metadata}
        add_flag(parser, f"--{field.name}", **how)


def settings_from(args: argparse.Namespace, kind: Type[Settings]) -> Settings:
    """Return the settings that the flags of :func:`add_settings_options` give."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(args, name) for name in names})


def add_image_dir_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--input_image_dir`` of commands that read vamp's outputs."""
    add_flag(
        parser,
        "--input_image_dir",
        type=Path,
        help="folder of the images; needed for a list that the vendor's script made",
    )


def add_normalizer_option(parser: Any) -> None:
    """Add ``--normalizer``: a data set's two landmarks, or those of one's own points."""
    parser.add_argument(
        "--normalizer",
        type=_normalizer,
        default="WFLW",
        metavar="SET",
        help=f"unit of the NME: the two landmarks of {', '.join(_NORMALIZERS)} (there the box), or "
        "two of your own, such as 60,72",
    )


# The names in facezoo.metrics.landmarks, whose import takes longer than the help.
_NORMALIZERS = ("WFLW", "300W", "COFW", "AFLW")


def _normalizer(text: str) -> Union[str, Tuple[int, int]]:
    from ..metrics.landmarks import NORMALIZERS

    if text in NORMALIZERS:
        return text
    pair = re.fullmatch(r"(\d{1,6}),(\d{1,6})", text)
    if pair is None or int(pair[1]) == int(pair[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of {', '.join(NORMALIZERS)}, nor two different landmarks such "
            "as 60,72"
        )
    return int(pair[1]), int(pair[2])


def add_batch_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` of the export scripts; None means free."""
    parser.add_argument(
        "--batch", type=_batch, default=None, help="batch size, or dynamic (default: dynamic)"
    )


def _batch(text: str) -> Optional[int]:
    if text == "dynamic":
        return None
    return int(BATCH_SIZE(text))


def add_run_options(
    parser: argparse.ArgumentParser, rate: Optional[str] = None, threads: bool = False
) -> None:
    """Add the flags of every command that writes a folder.

    Parameters
    ----------
    parser
        The command's.
    rate
        Setting of a training that ``--resume`` lets differ from that of the earlier start.
    threads
        Also add that of the cores.
    """
    if threads:
        flags.add(parser, "--threads")
    group = parser.add_argument_group("run")
    if rate is not None:
        text = f"go on with another --{rate}, as after a training that diverged"
        group.add_argument("--resume", action="store_true", help=text)
    flags.add_reading(group)
    flags.add(group, "--overwrite")


def import_torch_part(module: str) -> Any:
    """Import a module of the package that needs PyTorch, for scripts whose help must not.

    Parameters
    ----------
    module
        Such as ``facezoo.graphs.export``.

    Raises
    ------
    BackendUnavailable
        If PyTorch is not installed.
    """
    try:
        part, torch = (importlib.import_module(name) for name in (module, "torch"))
    except ImportError as error:
        raise BackendUnavailable(f"this needs PyTorch ({error}); {torch_advice()}") from error
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return part


def torch_advice() -> str:
    """Say how to get PyTorch, or that this Python cannot have it."""
    if sys.version_info < OLDEST_OF_TORCH:
        found, needed = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST_OF_TORCH))
        return f"that needs Python {needed}, and this is Python {found}: use a newer one"
    return "install it with: pip install torch torchvision"


def progress(items: Iterable[Item], total: Optional[int], what: str = "") -> Iterator[Item]:
    """Show progress while items pass: as a bar on a terminal, elsewhere as a line a minute.

    Parameters
    ----------
    items
        What passes.
    total
        Their number; None if it is not known.
    what
        Name of the work, for a command that does several.

    Yields
    ------
    object
        The items. With ``--quiet`` nothing is shown.
    """
    with showing(what) as show:
        show(0, total)
        for count, item in enumerate(items, 1):
            yield item
            show(count, total)


@contextmanager
def showing(what: str = "") -> Iterator[Callable[..., None]]:
    """Show progress that is counted elsewhere, like :func:`progress`.

    Parameters
    ----------
    what
        See :func:`progress`.

    Yields
    ------
    callable
        ``show(done, total, note="")``: how many items are done, of how many, and what else there is
        to say; what the first call finds done is not counted in the rate.
    """
    if is_quiet():
        yield lambda done, total, note="": None
    elif sys.stderr is not None and sys.stderr.isatty():
        # Imported here because it takes a sixth of a command's start.
        from tqdm import tqdm

        with tqdm(desc=what or None) as bar:

            def draw(done: int, total: Optional[int], note: str = "") -> None:
                bar.set_postfix_str(note, refresh=False)
                if bar.total != total:
                    bar.total, bar.n, bar.initial = total, done, done
                    bar.refresh()
                bar.update(done - bar.n)

            yield draw
    else:
        yield _lines_of(what)


def _lines_of(what: str) -> Callable[..., None]:
    """Return a function that logs a line a minute."""
    began = f"{what}: " if what else ""
    started = said = time.monotonic()
    first: Optional[int] = None

    def log(done: int, total: Optional[int], note: str = "") -> None:
        nonlocal said, first
        first, now = done if first is None else first, time.monotonic()
        if now - said < SECONDS_PER_LINE or done in (first, total):
            return
        said, rate = now, (done - first) / (now - started)
        left = "" if total is None else f", {(total - done) / rate / 60:.1f} minutes left"
        of = "" if total is None else f" of {total}"
        more = f", {note}" if note else ""
        _log.info("%s%d%s done, %.3g a second%s%s", began, done, of, rate, left, more)

    return log


def run_items(
    args: argparse.Namespace,
    inputs: Inputs,
    results: Callable[[Sequence[Any]], Iterable[Outcome]],
    *,
    command: str,
    settings: Mapping[str, Any],
    finish: Callable[[RunFolder], object],
    names: Optional[Sequence[str]] = None,
    items: Optional[Sequence[Any]] = None,
    folder: Optional[Path] = None,
    where: Optional[str] = None,
    files_of: Callable[[str], Iterable[Path]] = lambda name: (),
    room: int = 0,
    afterwards: Callable[[], Optional[str]] = lambda: None,
) -> int:
    """Run a resumable command over many items, show its progress and print its last line.

    Parameters
    ----------
    args
        Parsed, with the flags of :func:`add_run_options`.
    inputs, command, settings
        See :class:`facezoo.runs.RunFolder`.
    results, finish, files_of
        See :meth:`facezoo.runs.RunFolder.process`.
    names, items
        Items to process; by default the files of ``inputs`` and their names.
    folder
        Run folder; by default ``args.save_dir``.
    where
        End of the last line; by default it names the folder.
    room
        Bytes that the files of all items take; checked before the first. With ``--draw`` the
        images drawn on are added.
    afterwards
        Called on every start after the results are complete, also if they were complete before;
        the folder is still locked. Text that it returns is printed below the last line.

    Returns
    -------
    int
        Exit code: 0, or 1 if an item was refused.
    """
    folder = args.save_dir if folder is None else folder
    items = inputs.paths if items is None else items
    if getattr(args, "draw", None):
        room += sum(map(_size_of, inputs.paths))

    def begin(left: Sequence[Any]) -> Iterable[Outcome]:
        check_room(folder, room * len(left) // len(items), f"the results of {len(left)} items")
        return results(left)

    with RunFolder(folder, command, settings, inputs, args.overwrite) as run:
        counts = run.process(
            inputs.names if names is None else names,
            items,
            begin,
            finish=finish,
            files_of=files_of,
            progress=progress,
        )
        text = afterwards()
    code = report_items(counts, f"results in {folder}" if where is None else where)
    if text:
        print(text)
    return code


def _size_of(path: Path) -> int:
    """Return a file's size; 0 for what is not a readable image, which the run refuses by name."""
    # Imported here, since the help needs no numpy.
    from ..arrays import LARGEST_IMAGE

    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return size if size <= LARGEST_IMAGE else 0


def report_items(counts: ItemCounts, where: str) -> int:
    """Print the last line of a command that works on many images, and return its exit code.

    Parameters
    ----------
    counts
        Counts and time of this run.
    where
        Text that says where the results are; empty if they are nowhere.
    """
    new = counts.total - counts.kept
    kept = f", {counts.kept} kept from an earlier run" if counts.kept else ""
    refused = f", {counts.refused} refused" if counts.refused else ""
    damaged = f", {counts.damaged} damaged" if counts.damaged else ""
    rate = f", {new / counts.seconds:.1f} images/s" if new else ""
    end = f"; {printable(where)}" if where else ""
    print(f"{counted(counts.total, 'image')}{kept}{refused}{damaged}{rate}{end}")
    return EXIT_SOME_REFUSED if counts.refused else 0


class _Shown:
    """A stream of text that escapes what a terminal would take for a command, or cannot show.

    Names of files, in lists and in networks come from others.
    """

    def __init__(self, stream: Any, keep: str) -> None:
        self.stream, self._keep = stream, keep

    def write(self, text: str) -> int:
        # A progress bar begins with a return to the start of the line.
        start = text[:1] if text[:1] == "\r" else ""
        shown = start + printable(text[len(start) :], self._keep)
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _ShownNames(ContextDecorator):
    """Escapes what cannot be shown in everything that is printed.

    The streams are those of the whole program: they are replaced once while several threads run
    commands. Python crashes if a stream is freed while another thread prints, so they are kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._shown: Any = [None, None]

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = sys.stdout, sys.stderr
                for index, stream in enumerate(self._before):
                    # There is no stream if the caller closed it.
                    if getattr(self._shown[index], "stream", None) is not stream:
                        self._shown[index] = stream and _Shown(stream, "\n\t")
                sys.stdout, sys.stderr = self._shown
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                sys.stdout, sys.stderr = self._before


_shown_names = _ShownNames()


@_shown_names
def run_command(
    function: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Optional[Sequence[str]] = None,
) -> int:
    """Parse, run, and turn errors into one line and an exit code.

    Parameters
    ----------
    function
        Takes the parsed arguments, returns the exit code.
    parser
        The command's.
    argv
        Arguments; those of the process if None.

    Returns
    -------
    int
        0 done, 1 some inputs refused, 2 usage or malformed input, 3 rejected by a gate, 4 the
        folder belongs to another run, 70 an unexpected error, which is a fault of facezoo, 130 or
        143 interrupted.
    """
    args = parser.parse_args(argv)
    args.quiet, verbose = "quiet" in args, "verbose" in args
    level = logging.ERROR if args.quiet else logging.INFO
    # Other packages warn; what they do in detail is nobody's concern.
    logging.basicConfig(format=f"{parser.prog}: %(message)s", level=max(level, logging.WARNING))
    if verbose or "asks_for_device" in args:
        level = logging.DEBUG
    # The handlers are set up once; a program may run several commands.
    said_level = _log_level.changed(level)
    for said in () if args.quiet else args.old_spellings:
        print(f"{said}; the old spelling goes with the next version", file=sys.stderr)
    stop = _Stop(parser.prog)
    previous = {number: signal.signal(number, stop) for number in stop.numbers()}
    threads = getattr(args, "threads", None)
    if threads is not None and threads > granted_cores():
        _log.warning("--threads %d: only %d cores may be used", threads, granted_cores())
        threads = granted_cores()
    try:
        check_outputs(parser, args)
        refuse_over_inputs(parser, args)
        named = asked_for([path for _, path in output_files(parser, args) if str(path) != "-"])
        to_stdout = any(str(path) == "-" for _, path in output_files(parser, args))
        printed = printing(quiet=args.quiet, to_stdout=to_stdout)
        how = reading(getattr(args, "allow_damaged", False))
        cores = limited_cores(threads)
        with said_level, named, printed, cores, opencv_threads(usable_cores()), how as found:
            code = function(args)
            if getattr(args, "strict", False) and found.passed_over_count:
                return code or EXIT_SOME_REFUSED
            return code
    except FaceZooError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader closed the pipe; the interpreter must not try to flush the output again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + SIGPIPE
    except OSError as error:
        # Not foreseen by the library: a full disk, a folder that may not be read.
        where = f"{error.filename!r}: " if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "")
        print(f"{parser.prog}: {where}{error.strerror or error}{advice}", file=sys.stderr)
        return FaceZooError.exit_code
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except _Terminated:
        print(f"{parser.prog}: terminated; run the same command again to resume", file=sys.stderr)
        return 143
    except Exception as error:
        return report_unexpected(parser.prog, error, verbose)
    finally:
        stop.done()
        for number, handler in previous.items():
            signal.signal(number, handler)


def report_unexpected(prog: str, error: Exception, verbose: bool) -> int:
    """Ask for a report of an error that no code foresaw, on one line, and return its exit code.

    Parameters
    ----------
    prog
        Name of the command.
    error
        The error, with its traceback.
    verbose
        Print the traceback first.
    """
    if verbose:
        traceback.print_exception(type(error), error, error.__traceback__)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    said = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}")
    hint = "" if verbose else "; --verbose shows the traceback"
    print(
        f"{prog}: unexpected {said[:600]} ({where}), which is a fault of facezoo: please report it "
        f"with the command, this line and what facezoo doctor prints{hint}",
        file=sys.stderr,
    )
    return EXIT_UNEXPECTED


class _Terminated(BaseException):
    """SIGTERM, so that files are closed and locks freed on the way out."""


class _Stop:
    """Handles Ctrl-C and SIGTERM: files are closed on the way out, unless something hangs there."""

    def __init__(self, prog: str) -> None:
        self._prog = prog
        self._watchdog: Optional[threading.Timer] = None

    def numbers(self) -> Iterator[int]:
        """Yield the signals to handle: Ctrl-C only if it was not disabled from outside."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals in its main thread, where they stay the caller's.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            yield signal.SIGINT
        yield signal.SIGTERM

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        if self._watchdog is None:
            # A call into a runtime that hangs can be neither awaited nor interrupted.
            self._watchdog = threading.Timer(STOP_SECONDS, self._give_up, (number,))
            self._watchdog.daemon = True
            self._watchdog.start()
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    def _give_up(self, number: int) -> None:
        text = f"{self._prog}: stopped while something hung; run the same command again to resume\n"
        os.write(2, text.encode(errors="replace"))
        os._exit(128 + number)

    def done(self) -> None:
        """Stop watching: nothing hangs."""
        if self._watchdog is not None:
            self._watchdog.cancel()
