"""The flags that our own verbs share: one spelling per meaning, and the old spellings.

The vendor's verbs (vamc, vamp, image2npz, decode) and the scripts of the recipes have the vendor's
spellings instead; see :func:`facezoo.cli.options.add_flag`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from ..backends import AUTO_SIZE, ENGINES
from ..fields import COSINE, DEVICE_OR_PROVIDER, RATE, SEED, SIDE, number, whole
from .outputs import OutputFile, PlotFile, name_of

__all__ = [
    "SHARED",
    "Flag",
    "Size",
    "add",
    "add_detector_options",
    "add_reading",
    "add_runtime",
    "detector_options",
    "drop_old_spellings",
    "old_spellings",
    "renamed",
    "spellings_table",
]

# Old spellings go with the version after this one.
LAST_VERSION = "0.2"


class Size(argparse.Action):
    """A side, or height x width: ``640``, ``480x640``; where allowed ``dynamic``, or ``auto``.

    ``dynamic`` is stored as None.
    """

    def __init__(self, option_strings: List[str], dest: str, **options: Any) -> None:
        self.may_be_free = options.pop("dynamic", False)
        self.may_follow = options.pop("auto", False)
        # Whether its old form, two words, is understood.
        self.pair = options.pop("pair", False)
        super().__init__(option_strings, dest, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        """Store (height, width)."""
        size: Any = None
        if self.may_follow and values == AUTO_SIZE:
            size = AUTO_SIZE
        elif not (self.may_be_free and values == "dynamic"):
            sides = values.split("x")
            try:
                height, width = map(SIDE, sides if len(sides) == 2 else (*sides, *sides))
            except (ValueError, argparse.ArgumentTypeError):
                free = ", or dynamic" if self.may_be_free else ""
                free += ", or auto" if self.may_follow else ""
                parser.error(
                    f"{option_string} {values} must be a side such as 640, or a height and a width "
                    f"such as 480x640, each {SIDE.expected}{free}"
                )
            size = (height, width)
        setattr(namespace, self.dest, size)


class _Device(argparse.Action):
    """The number of a device; who gives it wants to know why it is not used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.asks_for_device = True


class Flag(NamedTuple):
    """A flag with the same meaning in every verb that has it.

    Attributes
    ----------
    meaning
        For the table of spellings, and the help where a verb says nothing more specific.
    how
        For ``add_argument``.
    """

    meaning: str
    how: Mapping[str, Any] = {}


_MODEL = {"metavar": "MODEL"}
_FILE = {"type": Path, "metavar": "FILE"}
_DIR = {"type": Path, "metavar": "DIR"}
_OUTPUT = {"action": OutputFile, "metavar": "FILE"}
_SHARE = number(0, 1)

SHARED: Dict[str, Flag] = {
    "--model": Flag("network of any kind", _MODEL),
    "--detector": Flag("network that finds faces, an SCRFD", _MODEL),
    "--landmarks": Flag("network that finds landmarks, a PIPNet or PFLD", _MODEL),
    "--quality": Flag("network that scores the quality of a face", _MODEL),
    "--embedder": Flag("network that recognises faces, a MagFace or another recogniser", _MODEL),
    "--build": Flag(
        "with --ledger: another build of the same network; may be repeated",
        {"metavar": "MODEL", "action": "append", "default": []},
    ),
    "--score": Flag("lowest score of a face, from 0 to 1", {"type": _SHARE, "metavar": "X"}),
    "--nms": Flag(
        "largest overlap (IoU) of two faces, from 0 to 1", {"type": _SHARE, "metavar": "X"}
    ),
    "--size": Flag(
        "a side of the network's input, or HEIGHTxWIDTH, in pixels",
        {"action": Size, "metavar": "SIDE"},
    ),
    "--engine": Flag("runtime", {"choices": ENGINES, "default": "auto"}),
    "--device": Flag(
        "device number",
        {"action": _Device, "type": DEVICE_OR_PROVIDER, "default": 0, "metavar": "N"},
    ),
    "--provider": Flag("execution provider of ONNX Runtime", {"default": "cpu"}),
    "--precision": Flag(
        "arithmetic of OpenVINO; bf16 is faster on CPUs that have it",
        {"choices": ("f32", "bf16"), "default": "f32"},
    ),
    "--allow-saturation": Flag(
        "open an int8 build of full range on a CPU whose 8-bit sums saturate, at a loss",
        {"action": "store_true"},
    ),
    "--threads": Flag(
        "CPU cores to use (default: all usable ones)", {"type": whole(1, 1024), "metavar": "N"}
    ),
    "--vdsp": Flag("vdsp_params JSON of the pre-processing (default: that of the model)", _FILE),
    "--images": Flag("folder of images to measure on", _DIR),
    "--image": Flag("a single image", _FILE),
    "--pairs": Flag("list of pairs of images", {"type": Path, "metavar": "LIST"}),
    "--photos": Flag("folder of the photos that pairs or tables name", _DIR),
    "--pred": Flag("predictions to evaluate", _FILE),
    "--gt": Flag("folder of the ground truth", _DIR),
    "--embeddings": Flag(
        "embeddings.npz with names and vectors of the faces (default: computed from --images)",
        {"type": Path, "metavar": "NPZ"},
    ),
    "--references": Flag(
        "list of references; one face of each pair is in it (default: any two faces are a pair)",
        {"type": Path, "metavar": "LIST"},
    ),
    "--copies": Flag(
        "list of copies, each with its original (default: no face is a copy)",
        {"type": Path, "metavar": "LIST"},
    ),
    "--embedder-card": Flag(
        "card of a recogniser without a contract", {"metavar": "CARD", "default": "w600k_mbf"}
    ),
    "--recipe": Flag(
        "model that gives the quality: sdd_fiqa (score) or magface (norm of the embedding)",
        {"choices": ("sdd_fiqa", "magface"), "default": "sdd_fiqa"},
    ),
    "--profile": Flag("profile of facezoo calibrate quality", _FILE),
    "--min-quality": Flag("low_quality: name of a threshold in the profile", {"metavar": "NAME"}),
    "--appearance": Flag("profile of facezoo calibrate appearance", _FILE),
    "--min-size": Flag("too_small: shorter side of the box in pixels"),
    "--min-sharpness": Flag("blurred: variance of the Laplacian of the aligned face"),
    "--max-yaw": Flag("turned: offset of the nose from the eyes' middle, in distances of the eyes"),
    "--max-truncation": Flag("cut_off: share of the aligned face outside the photo"),
    "--try-rotations": Flag(
        "turn photos without a sure face by 90, 180 and 270 degrees too, which takes three more "
        "detections each, instead of refusing their faces as upside_down",
        {"action": "store_true"},
    ),
    "--embed-refused": Flag("embed refused faces, too", {"action": "store_true"}),
    "--similarity": Flag("profile of facezoo calibrate similarity", _FILE),
    "--threshold": Flag(
        "smallest cosine of two faces of one person, -1 to 1", {"type": COSINE, "metavar": "X"}
    ),
    "--min-similarity": Flag(
        "smallest cosine of a face to a person of a gallery, -1 to 1",
        {"type": COSINE, "metavar": "X"},
    ),
    "--strangers": Flag(
        "people who are not enrolled, a folder each, or results of facezoo score",
        {"type": Path, "metavar": "PEOPLE"},
    ),
    "--fpir": Flag(
        "false positive identification rate: share of strangers' faces that may be given a name",
        {"type": RATE, "default": 0.01, "metavar": "X"},
    ),
    "--tables": Flag(
        "results of facezoo score or facezoo predict --parquet, with embeddings; the first folder "
        "of a photo's name is its person",
        {"type": Path, "metavar": "RUN"},
    ),
    "--settings": Flag(
        "beginning of one of the names that facezoo score status lists", {"metavar": "ID"}
    ),
    "--face": Flag("face of a photo to use", {"choices": ("central", "largest")}),
    "--fmr": Flag("false match rate", {"type": RATE, "default": 1e-3, "metavar": "X"}),
    "--fnmr": Flag("false non-match rate", {"metavar": "X"}),
    "--folds": Flag("folds of the accuracy", {"type": whole(2, 1000), "metavar": "N"}),
    "--seed": Flag("random seed", {"type": SEED, "default": 0, "metavar": "N"}),
    "--dtype": Flag("number format of the build", {}),
    "--allow-custom-code": Flag(
        "allow running the Python code of a CustomFunc", {"action": "store_true"}
    ),
    "--output": Flag("file or folder of results"),
    "--to": Flag("folder of something new: a recipe, a data set, a product", _DIR),
    "--overwrite": Flag(
        "remove what the earlier run wrote there and start again", {"action": "store_true"}
    ),
    "--draw": Flag("write annotated images to the folder of results", {"action": "store_true"}),
    "--json": Flag(
        "write the results as JSON; - is the standard output",
        {"action": OutputFile, "metavar": "FILE", "dash": True},
    ),
    "--csv": Flag("write a table as CSV", _OUTPUT),
    "--html": Flag("write an HTML report", _OUTPUT),
    "--plot": Flag("plot the results", {"action": PlotFile, "metavar": "FILE"}),
    "--ledger": Flag("measure, print and write the cost of each deviation", _OUTPUT),
    "--record": Flag("write the numbers to this file of a recipe", _OUTPUT),
    "--dataset": Flag("name of the data in the report", {"metavar": "NAME"}),
    "--check": Flag("write nothing, only check", {"action": "store_true"}),
    "--root": Flag("the repository's folder", {"type": Path, "default": Path()}),
    "--allow-damaged": Flag(
        "read damaged images as far as possible, and mark them, instead of refusing them",
        {"action": "store_true"},
    ),
    "--strict": Flag(
        "exit with 1 if a folder of images holds files that are passed over",
        {"action": "store_true"},
    ),
    "--quiet": Flag("print nothing but errors"),
    "--verbose": Flag("also say which runtime is chosen and why; show tracebacks"),
}
SHORT = {"--output": "-o", "--pred": "-p", "--gt": "-g"}


def add(
    parser: Any, name: str, meaning: str = "", *, old: Sequence[str] = (), **options: Any
) -> argparse.Action:
    """Add a flag of our own verbs.

    Parameters
    ----------
    parser
        A parser or an argument group.
    name
        Its spelling, with dashes; one of ``SHARED`` if several verbs have it.
    meaning
        Its help; that of ``SHARED`` if empty.
    old
        Old spellings, which work for one more version and are not shown.
    options
        For ``add_argument``, in place of those of ``SHARED``.
    """
    shared = SHARED.get(name)
    how = {**(shared.how if shared else {}), **options}
    names = [SHORT[name]] if name in SHORT else []
    text = meaning or (shared.meaning if shared else "")
    action: argparse.Action = parser.add_argument(*names, name, help=text, **how)
    underscored = [name.replace("-", "_").replace("__", "--", 1)] if "-" in name[2:] else []
    action.old = tuple(_both([*old, *underscored], name))  # type: ignore[attr-defined]
    return action


def _both(names: Iterable[str], new: str) -> List[str]:
    """Add the dashed form of each old spelling."""
    spelled = [form for name in names for form in (name, name.replace("_", "-"))]
    return [name for name in dict.fromkeys(spelled) if name != new]


def old_spellings(parser: argparse.ArgumentParser) -> Dict[str, str]:
    """Return the old spellings that a parser takes, each with the present one."""
    return {
        old: name_of(action) for action in parser._actions for old in getattr(action, "old", ())
    }


def drop_old_spellings(parser: argparse.ArgumentParser) -> None:
    """Let a parser take the present spellings only: those of a verb that never had others."""
    for action in parser._actions:
        action.old = ()  # type: ignore[attr-defined]


def renamed(
    words: Sequence[str], parser: argparse.ArgumentParser
) -> Tuple[List[str], List[Tuple[str, str]]]:
    """Replace old spellings of flags among the words of a command line.

    Returns
    -------
    words : list of str
        With the present spellings.
    used : list of tuple of str
        Old and present spelling of each that was found.
    """
    new_of = old_spellings(parser)
    pairs = {name_of(action) for action in parser._actions if getattr(action, "pair", False)}
    found: List[str] = []
    used: List[Tuple[str, str]] = []
    ended = False
    for word in words:
        if found[-2:-1] and found[-2] in pairs and found[-1].isdigit() and word.isdigit():
            used.append((f"{found[-2]} {found[-1]} {word}", f"{found[-2]} {found[-1]}x{word}"))
            found[-1] = f"{found[-1]}x{word}"
            continue
        ended = ended or word == "--"
        name, equals, value = word.partition("=")
        new = None if ended else new_of.get(name)
        found.append(word if new is None else new + equals + value)
        if new is not None and (name, new) not in used:
            used.append((name, new))
    return found, used


def add_runtime(group: Any) -> None:
    """Add the flags that choose the runtime of a model; ``options.runtime_of`` reads them."""
    add(group, "--engine", "runtime; one after @ in the name of a model comes first")
    add(group, "--device", old=("--device_id",))
    for name in ("--provider", "--precision", "--allow-saturation", "--threads"):
        add(group, name)


def add_reading(group: Any, *, folders: bool = True) -> None:
    """Add the flags of every command that reads images; ``options.run_command`` reads them.

    Parameters
    ----------
    group
        A parser or an argument group.
    folders
        It reads folders of images, in which other files are passed over.
    """
    add(group, "--allow-damaged")
    if folders:
        add(group, "--strict")


def add_detector_options(group: Any, **detector: Any) -> None:
    """Add ``--detector`` and what it finds; :func:`detector_options` reads them.

    Parameters
    ----------
    group
        A parser or an argument group.
    detector
        For :func:`add` of ``--detector``.
    """
    add(group, "--detector", **detector)
    add(group, "--score", f"{SHARED['--score'].meaning} (default: 0.5)")
    add(group, "--nms", f"{SHARED['--nms'].meaning} (default: 0.4)")
    add(
        group,
        "--size",
        "a side of the detector's input, or HEIGHTxWIDTH; larger finds smaller faces; auto is as "
        "much of 640 as the photo fills, which is faster (default: 640, or that of the file)",
        auto=True,
    )


def detector_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Return the options of ``facezoo.load`` that :func:`add_detector_options` were given."""
    given = {name: getattr(args, name, None) for name in ("score", "nms", "size")}
    return {name: value for name, value in given.items() if value is not None}


def spellings_table(say: Callable[[str], str] = str) -> str:
    """Return the table of spellings as Markdown.

    Parameters
    ----------
    say
        Translates a text of the table.
    """
    rows = []
    for name, flag in SHARED.items():
        metavar = flag.how.get("metavar", "")
        shown = f"`{name} {metavar}`" if metavar else f"`{name}`"
        short = f", `{SHORT[name]}`" if name in SHORT else ""
        rows.append(f"| {shown}{short} | {say(flag.meaning)} |")
    return "\n".join([f"| {say('Flag')} | {say('Meaning')} |", "| --- | --- |", *rows])
