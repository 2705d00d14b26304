"""Flags that name a file to write: it must not be one of the files that the command reads."""

from __future__ import annotations

import argparse
import glob
import io
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator, List, Mapping, Optional, Tuple, cast

from ..errors import UNREADABLE, InputError
from ..written import is_listed, writing

__all__ = [
    "OutputFile",
    "PlotFile",
    "check_outputs",
    "is_quiet",
    "name_of",
    "output_files",
    "printing",
    "refuse_over_inputs",
    "result_stream",
    "write_report",
]

# Files of a folder that a command may read, besides images; a report of an earlier start is none.
DATA_SUFFIXES = (".mat", ".npz", ".bin", ".rec", ".idx", ".onnx", ".pth")
# image2npz writes its list beside or into the folder of its npz files.
OWN_LIST = ("target_path", ".txt")
# Folders of which also texts are read.
TEXT_FOLDERS = ("pred", "gt", "base_dir")


class OutputFile(argparse.Action):
    """A flag that names a file to write, as a path.

    Attributes
    ----------
    dash
        Whether ``-`` may be given for the standard output.
    suffix
        The only suffix that the file may have; any if empty.
    """

    def __init__(
        self,
        option_strings: List[str],
        dest: str,
        dash: bool = False,
        suffix: str = "",
        **options: Any,
    ) -> None:
        self.dash, self.suffix = dash, suffix
        super().__init__(option_strings, dest, type=Path, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Store the path."""
        if str(values) == "-" and not self.dash:
            raise argparse.ArgumentError(self, "- is not a file; name one")
        if self.suffix and values.suffix != self.suffix:
            raise argparse.ArgumentError(
                self, f"{str(values)!r} is not the name of a {self.suffix} file; expected one"
            )
        setattr(namespace, self.dest, values)


class _Silence(io.TextIOBase):
    """A stream that takes everything and shows nothing."""

    def write(self, text: str) -> int:
        return len(text)


class _Bytes:
    """Writes bytes to a stream of text."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        self._stream.write(data.decode())
        return len(data)


# What results go to, where --json - asks for the standard output.
_stdout: List[Any] = []
_quiet: List[bool] = []


@contextmanager
def printing(*, quiet: bool = False, to_stdout: bool = False) -> Iterator[None]:
    """Keep the standard output for results: what is printed goes elsewhere meanwhile.

    Parameters
    ----------
    quiet
        What is printed is dropped.
    to_stdout
        A result is written to the standard output; what is printed goes to standard error.
    """
    before = sys.stdout
    _stdout.append(before)
    _quiet.append(quiet)
    if quiet:
        sys.stdout = _Silence()
    elif to_stdout:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = before
        _stdout.pop()
        _quiet.pop()


def is_quiet() -> bool:
    """Return whether the command that runs was told to print nothing but errors."""
    return bool(_quiet and _quiet[-1])


@contextmanager
def result_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, all or nothing, or the standard output for ``-``."""
    if str(path) != "-":
        with writing(path) as file:
            yield file
        return
    yield cast("IO[bytes]", _Bytes(_stdout[-1] if _stdout else sys.stdout))


def write_report(path: Path, entry: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write a JSON file, all or nothing, or to the standard output for ``-``."""
    with result_stream(path) as stream:
        stream.write((json.dumps(entry, indent=indent, allow_nan=False) + "\n").encode())


class PlotFile(OutputFile):
    """A flag that names a plot to write, as a path."""


def check_outputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raise an error before the work if a file cannot be written after it.

    Parameters
    ----------
    parser, args
        The command's, and what it parsed.

    Raises
    ------
    InputError
        If a file to write is a folder, lies below a file or in a folder that may not be written,
        or a plot has no suffix of an image.
    BackendUnavailable
        If there is a plot, and matplotlib is not installed.
    """
    plots = {one.dest for one in _actions(parser, args) if isinstance(one, PlotFile)}
    if any(getattr(args, dest, None) for dest in plots):
        # A local import, since matplotlib is optional and slow to import.
        from ..reports.plots import check_plot
    for flag, output in output_files(parser, args):
        if str(output) == "-":
            continue
        if output.is_dir():
            raise InputError(f"{flag} {str(output)!r} is a folder; name a file")
        place = output.absolute().parent
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise InputError(f"{flag} {str(output)!r}: {str(place)!r} is a file, not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(
                f"{flag} {str(output)!r}: the folder {str(place)!r} may not be written; allow it "
                "or name another place"
            )
        if flag[2:] in plots:
            check_plot(output)


def refuse_over_inputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raise InputError if a file to write is an input of the command, a device, or named twice.

    Parameters
    ----------
    parser, args
        The command's, and what it parsed. An input is a file that another flag names, of an
        artifact, in the folder of downloaded weights, or a data file in a folder that another
        flag names.
    """
    outputs = list(output_files(parser, args))
    inputs: List[Tuple[str, str, Path]] = []
    if any(str(output) != "-" and output.exists() for _, output in outputs):
        inputs = list(_inputs(parser, args))
    seen: List[Tuple[str, Path]] = []
    for flag, output in outputs:
        for other, earlier in seen:
            if _real(earlier) == _real(output):
                raise InputError(f"{other} and {flag} both name {str(output)!r}; name two files")
        seen.append((flag, output))
        if str(output) == "-" or not output.exists():
            continue
        if not output.is_file() and not output.is_dir():
            raise InputError(f"{flag} {str(output)!r} is a device or a pipe; name a file")
        for other, dest, path in inputs:
            if _is_read(output, dest, path):
                what = str(path) if path.is_dir() else other
                raise InputError(
                    f"{flag} {str(output)!r} is a file that this command reads ({what}), and "
                    "would be replaced; name another file"
                )
        _refuse_weights(flag, output)


def output_files(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> Iterator[Tuple[str, Path]]:
    """Yield flag and path of every file that a command was told to write."""
    for action in _actions(parser, args):
        value = getattr(args, action.dest, None)
        if isinstance(action, OutputFile) and value is not None:
            yield name_of(action), value


def name_of(action: argparse.Action) -> str:
    """Return what messages call a flag or an argument."""
    long = [name for name in action.option_strings if name.startswith("--")]
    return [*long, *action.option_strings, str(action.metavar or action.dest)][0]


def _actions(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> Iterator[argparse.Action]:
    """Yield the actions of a parser and of the verbs that were chosen."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = action.choices.get(getattr(args, action.dest, ""))
            if chosen is not None:
                yield from _actions(chosen, args)
        else:
            yield action


def _inputs(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> Iterator[Tuple[str, str, Path]]:
    """Yield flag, name and path of what a command may read, as far as its flags say."""
    for action in _actions(parser, args):
        value = getattr(args, action.dest, None)
        flag = name_of(action)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(action, OutputFile) and isinstance(one, (str, Path)):
                for path in _paths_of(str(one)):
                    yield str(flag), action.dest, path


def _paths_of(text: str) -> Iterator[Path]:
    """Yield the files that a value may mean: FILE, NAME=FILE, FILE@ENGINE, or an artifact's."""
    for word in {text, text.partition("=")[2], text.rpartition("@")[0]}:
        path = Path(word)
        try:
            if word and path.exists():
                yield path
            elif word and path.parent.is_dir():
                yield from path.parent.glob(f"{glob.escape(path.name)}.*")
        except UNREADABLE:
            continue  # No path at all; the command says so.


def _is_read(output: Path, dest: str, path: Path) -> bool:
    if not path.is_dir():
        return path.exists() and path.samefile(output)
    folder = Path(os.path.realpath(path))
    places = (_real(output), Path(os.path.realpath(output)))
    return any(folder in place.parents and _is_data(place, dest) for place in places)


def _is_data(place: Path, dest: str) -> bool:
    suffix = place.suffix.lower()
    listed = is_listed(place)
    if listed is not None:
        return listed and suffix != ".html" and (dest, suffix) != OWN_LIST
    # Imported here because it takes most of a command's start.
    from ..image.decode import IMAGE_SUFFIXES

    is_text = suffix == ".txt" and dest in TEXT_FOLDERS
    return is_text or suffix in (*IMAGE_SUFFIXES, *DATA_SUFFIXES)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _refuse_weights(flag: str, output: Path) -> None:
    # Imported here because it takes most of a command's start.
    from .. import models, weights

    if not weights.home().is_dir() or not output.parent.samefile(weights.home()):
        return
    if output.name in {file.file for file in models.WEIGHTS.values()}:
        raise InputError(
            f"{flag} {str(output)!r} is a downloaded file, which other commands read; name "
            "another file"
        )
