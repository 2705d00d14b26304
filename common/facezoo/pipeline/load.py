"""Open a model by a card's id, a released or an exported file, or an artifact."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import inspect
import json
import logging
import os
import tempfile
import threading
import warnings
from functools import lru_cache, partial
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Literal,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    overload,
)

from .. import __version__, weights
from ..backends import AUTO_SIZE, ENGINES, RuntimeOptions, open_backend
from ..card import ModelCard, Preprocess, WeightFile
from ..contract import Contract, find_contract, read_contract
from ..errors import GraphError, InputError, WeightsMissing
from ..files import DIGITS, find_hashed, sha256_of, write_bytes, write_hashed
from ..image.preprocess import describe_differences
from ..models import CARDS, MODELS, WEIGHTS, find_card, find_class, has_part, import_part
from ..models.base import FaceModel
from ..models.magface.model import FaceEmbedder
from ..models.pipnet.model import LandmarkDetector
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality

__all__ = [
    "checkpoint_name",
    "differences_from_card",
    "differences_in_decoding",
    "export_graph",
    "load",
    "resolve",
    "split_engine",
    "warn_of_differences",
]

# For type checkers: class of each card's id. A contract test compares them with the cards.
DetectorCard = Literal[
    "scrfd_500m",
    "scrfd_500m_bnkps",
    "scrfd_1g",
    "scrfd_2.5g",
    "scrfd_2.5g_bnkps",
    "scrfd_10g",
    "scrfd_10g_bnkps",
    "scrfd_34g",
]
LandmarkCard = Literal["pip_resnet18", "pip_resnet101", "pip_mobilenet_v2", "pip_mobilenet_v3"]
QualityCard = Literal["sdd_fiqa_r50", "sdd_fiqa_mobilefacenet"]
EmbedderCard = Literal[
    "magface_iresnet18",
    "magface_iresnet34",
    "magface_iresnet50",
    "magface_iresnet100",
    "w600k_mbf",
    "arcface_rgb",
    "arcface_bgr",
]

InputSize = Union[int, Tuple[int, int], Literal["auto"], None]

# A network's input of that size takes gigabytes.
LARGEST_SIDE = 8192

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".tar")

Model = TypeVar("Model", bound=FaceModel[Any])

_USUAL = RuntimeOptions()
_preparing = threading.Lock()
_log = logging.getLogger(__name__)

LONGEST_VALUE = 80  # characters, in a warning


@overload
def load(
    spec: Union[str, Path],
    *,
    kind: Type[Model],
    engine: str = ...,
    threads: Optional[int] = ...,
    size: InputSize = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    card: str = ...,
    **options: Any,
) -> Model: ...


@overload
def load(
    spec: DetectorCard,
    *,
    engine: str = ...,
    threads: Optional[int] = ...,
    size: InputSize = ...,
    score: float = ...,
    nms: float = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    **options: Any,
) -> FaceDetector: ...


@overload
def load(
    spec: LandmarkCard,
    *,
    engine: str = ...,
    threads: Optional[int] = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    **options: Any,
) -> LandmarkDetector: ...


@overload
def load(
    spec: QualityCard,
    *,
    engine: str = ...,
    threads: Optional[int] = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    **options: Any,
) -> FaceQuality: ...


@overload
def load(
    spec: EmbedderCard,
    *,
    engine: str = ...,
    threads: Optional[int] = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    **options: Any,
) -> FaceEmbedder: ...


@overload
def load(
    spec: Union[str, Path],
    *,
    engine: str = ...,
    threads: Optional[int] = ...,
    size: InputSize = ...,
    runtime: RuntimeOptions = ...,
    vdsp: Optional[Path] = ...,
    preprocess: Optional[Preprocess] = ...,
    card: str = ...,
    **options: Any,
) -> FaceModel[Any]: ...


@overload
def load(spec: str, source: Union[str, Path], **options: Any) -> FaceModel[Any]: ...


def load(
    spec: Union[str, Path],
    source: Union[str, Path, None] = None,
    *,
    kind: Type[FaceModel[Any]] = FaceModel,
    engine: str = "",
    threads: Optional[int] = None,
    size: InputSize = None,
    runtime: RuntimeOptions = _USUAL,
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    card: str = "",
    **options: Any,
) -> FaceModel[Any]:
    """Open a model, ready for images.

    Parameters
    ----------
    spec
        What to open, followed by ``@ort``, ``@openvino`` or ``@vsx`` to choose the engine:

        - a card's id such as ``scrfd_500m_bnkps``: its published weights are found on this machine
          or fetched, and prepared once;
        - an .onnx file, either self-describing, as the recipe's ``export_onnx.py`` writes it, or as
          its authors publish it, which is recognised by its sha256;
        - an artifact prefix such as ``deploy_weights/official_scrfd_fp16/mod``.
    source
        Deprecated: what to open, if the first argument is the name of a model such as ``scrfd``.
    kind
        The expected class, such as :class:`FaceDetector`; any if not given. A subclass of a
        model's class is used in its place.
    engine
        ``auto``, ``ort``, ``openvino`` or ``vsx``, if it is not given with the spec.
    threads
        CPU cores to use; all usable ones if not given.
    size
        Side, or height and width, of a detector's input in pixels; larger finds smaller faces and
        takes longer. ``auto`` lets the input follow the photo: as much of the usual one as it
        fills, without enlarging it, which is faster and loses little.
    runtime
        Engine, device, threads and arithmetic; ``engine`` and ``threads`` come before it.
    vdsp
        A vdsp_params JSON, applied as on the device; differences from the model's contract are
        logged.
    preprocess
        Replaces the contract's pre-processing, for experiments.
    card
        Id of the card, for an .onnx file without a contract and with an unknown sha256.
    options
        The model's own: ``score`` (lowest score of a face), ``nms`` (largest overlap of two),
        ``profile`` and ``fast_decode`` of :class:`FaceDetector`, ``meanface`` of
        :class:`LandmarkDetector`, ``flip`` of :class:`FaceEmbedder`.

    Returns
    -------
    FaceModel
        :class:`FaceDetector`, :class:`LandmarkDetector`, :class:`FaceQuality` or
        :class:`FaceEmbedder`; which one is known from the card or the file's contract.

    Raises
    ------
    InputError
        If there is nothing to open, it is not of the expected kind, or an option is not known.
    WeightsMissing
        If weights are missing and cannot be downloaded; the message says how to get them.
    GraphError
        If a file cannot be read, or is not what its contract says.
    BackendUnavailable
        If the engine is not available on this machine.
    """
    if source is not None:
        kind, runtime, options = _old_form(str(spec), runtime, options)
        spec = source
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(
            f"a model is opened by a card's id, an .onnx file or an artifact prefix, got "
            f"{type(spec).__name__}"
        )
    path, named = resolve(spec, kind=kind, card=card)
    if engine and named not in ("", engine):
        raise InputError(f"{str(spec)!r} names the engine {named}, engine={engine!r} another one")
    runtime = _with_keywords(runtime, engine or named, threads)
    input_hw = _as_input_hw(size)
    cards = [one for one in CARDS.values() if _suits(find_class(one.model), kind)]
    backend = open_backend(
        path, runtime, vdsp=vdsp, preprocess=preprocess, cards=cards, input_hw=input_hw
    )
    try:
        contract = backend.contract
        if contract.model not in MODELS:
            raise InputError(
                f"{str(spec)!r} holds {contract.card_id}, a model of {contract.model!r}; expected "
                f"one of {', '.join(MODELS)}"
            )
        found = find_class(contract.model)
        _check_kind(str(spec), contract.card_id, found, kind)
        made = kind if issubclass(kind, found) else found
        _check_options(made, options)
        warn_of_differences(contract, str(spec))
        model = made(backend, contract, **options)
        model._reopen = partial(
            load,
            path.absolute(),
            kind=made,
            size=input_hw,
            runtime=runtime,
            vdsp=vdsp,
            preprocess=preprocess,
            **options,
        )
        return model
    except Exception:
        backend.close()
        raise


def _with_keywords(runtime: RuntimeOptions, engine: str, threads: Any) -> RuntimeOptions:
    if threads is not None:
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise InputError(f"threads must be a whole number from 1, got {threads!r}")
        runtime = dataclasses.replace(runtime, threads=threads)
    return dataclasses.replace(runtime, engine=engine) if engine else runtime


def _as_input_hw(size: Any) -> Union[Tuple[int, int], str, None]:
    if size is None or size == AUTO_SIZE:
        return size  # type: ignore[no-any-return]
    sides = (size, size) if isinstance(size, int) else size
    fits = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not fits or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
        raise InputError(
            f"size must be a side or (height, width), whole numbers from 1 to {LARGEST_SIDE}, or "
            f"{AUTO_SIZE!r}, got {size!r}"
        )
    return sides[0], sides[1]


def resolve(
    spec: Union[str, Path], *, kind: Type[FaceModel[Any]] = FaceModel, card: str = ""
) -> Tuple[Path, str]:
    """Find, download or prepare the file that :func:`load` would open, without opening it.

    Parameters
    ----------
    spec, kind, card
        See :func:`load`.

    Returns
    -------
    path : pathlib.Path
        A self-describing .onnx file or an artifact prefix.
    engine : str
        The engine that the spec names; empty if none.

    Raises
    ------
    InputError, WeightsMissing, GraphError
        See :func:`load`.
    """
    text, engine = split_engine(str(spec))
    named = find_card(card) if card else None
    if named is not None:
        _check_kind(card, card, find_class(named.model), kind)
    path = Path(text)
    if text in CARDS:
        _check_kind(text, text, find_class(CARDS[text].model), kind)
        return _published(CARDS[text]), engine
    if path.suffix == ".onnx":
        return _self_describing(path, named, kind), engine
    if path.suffix in CHECKPOINTS or text in WEIGHTS:
        raise InputError(_about_weights(path, kind))
    if path.is_file():
        raise InputError(_about_file(path))
    if len(path.parts) == 1 and not path.exists() and not list(_beside(path)):
        raise InputError(
            f"{text!r} is not a model: it is not a card's id{_nearest(text)}, not an .onnx file, "
            'and there is no artifact with this prefix; "facezoo list" shows the cards'
        )
    return path, engine


def warn_of_differences(contract: Contract, source: str) -> None:
    """Log where a contract differs from the card that it names, other than in the input size.

    Parameters
    ----------
    contract
        As read from a file, which anyone may have written.
    source
        What the file is called in the warnings.
    """
    for line in differences_from_card(contract):
        _log.warning(
            "%r says it is %s, but its contract differs from that card: %s; if that is not "
            "intended, export it again",
            source,
            contract.card_id,
            line,
        )


def differences_from_card(contract: Contract) -> List[str]:
    """Describe how a contract differs from the card of its name; empty if there is no such card."""
    card = CARDS.get(contract.card_id)
    if card is None:
        return []
    preprocess = dataclasses.replace(card.preprocess, input_hw=contract.preprocess.input_hw)
    differences = describe_differences(contract.preprocess, preprocess)
    return [*differences, *differences_in_decoding(contract)]


def differences_in_decoding(contract: Contract) -> List[str]:
    """Describe how the decoder's constants differ from the card's, as above."""
    card = CARDS.get(contract.card_id)
    # In a contract, which is JSON, there are no tuples.
    return [
        f"{name} {_in_short(contract.decode.get(name))}, the model expects {_in_short(value)}"
        for name, value in (card.decode.items() if card else ())
        if json.dumps(contract.decode.get(name)) != json.dumps(value)
    ]


def _in_short(value: Any) -> str:
    """Return a value's text, of a long list such as a mean face its length and its first item."""
    text = repr(value)
    if len(text) <= LONGEST_VALUE or not isinstance(value, (list, tuple)):
        return text
    return f"[{value[0]!r}, … {len(value)} in all]"


# What a spec names --------------------------------------------------------------------------------


def _old_form(
    model: str, runtime: RuntimeOptions, options: Dict[str, Any]
) -> Tuple[Type[FaceModel[Any]], RuntimeOptions, Dict[str, Any]]:
    """Read ``load("scrfd", source, engine="ort")`` as it was before ``load(source)``."""
    if model not in MODELS:
        raise InputError(f"model {model!r} is not known; expected one of {list(MODELS)}")
    kind = find_class(model)
    warnings.warn(
        f'facezoo.load("{model}", source) is deprecated and will be removed in the next '
        f"version; use facezoo.load(source, kind=facezoo.{kind.__name__}, "
        "runtime=facezoo.RuntimeOptions(...))",
        DeprecationWarning,
        stacklevel=3,
    )
    names = {field.name for field in dataclasses.fields(RuntimeOptions)}
    given = {name: value for name, value in options.items() if name in names}
    others = {name: value for name, value in options.items() if name not in names}
    return kind, dataclasses.replace(runtime, **given), others


def split_engine(spec: str) -> Tuple[str, str]:
    """Split a spec of :func:`load` into what it opens and the engine, empty if it names none."""
    text, at, engine = spec.rpartition("@")
    if at and engine in ENGINES:
        return text, engine
    if at and text in CARDS:
        raise InputError(f"engine {engine!r} is not known; expected one of {', '.join(ENGINES)}")
    # An @ in a path does not choose an engine.
    return spec, ""


def _suits(found: Type[FaceModel[Any]], kind: Type[FaceModel[Any]]) -> bool:
    return issubclass(found, kind) or issubclass(kind, found)


def _check_kind(
    spec: str, card_id: str, found: Type[FaceModel[Any]], kind: Type[FaceModel[Any]]
) -> None:
    if not _suits(found, kind):
        what = "" if spec == card_id else f"holds {card_id}, "
        wanted = [name for name in MODELS if _suits(find_class(name), kind)]
        raise InputError(
            f"{spec!r} {what or 'is '}a {found.__name__}; expected a {kind.__name__}, a model of "
            f"{' or '.join(wanted)}"
        )


def _check_options(made: Type[FaceModel[Any]], options: Dict[str, Any]) -> None:
    # The class itself has the parameters of Generic.__new__ on Python 3.8.
    names = inspect.signature(made.__init__).parameters
    known = [name for name in names if name not in _ALWAYS_GIVEN]
    for name in options:
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise InputError(
                f"{name!r} is not an option of a {made.__name__}, which {takes}; what it runs on "
                "is given as runtime=RuntimeOptions(...)"
            )


_ALWAYS_GIVEN = ("self", "backend", "contract")


def _nearest(text: str) -> str:
    """Return the most similar card ids as a suggestion to append to a message."""
    stem = Path(text).stem if text.endswith(".onnx") else text
    near = difflib.get_close_matches(stem.lower(), CARDS, cutoff=0.6)
    near += [card.id for card in CARDS.values() if card.weights == stem and card.id not in near]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _self_describing(path: Path, named: Optional[ModelCard], kind: Type[FaceModel[Any]]) -> Path:
    """Return an .onnx file with a contract; it is prepared if the given file has none."""
    if not path.is_file():
        # It may be a name that is known without a file.
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(
            f"{str(path)!r} {what}; expected a file, an artifact prefix or a card's id"
            f"{_nearest(path.name)}"
        )
    if find_contract(path) is not None:
        return path
    sha256 = sha256_of(path)
    for card in CARDS.values():
        if card.weights and WEIGHTS[card.weights].sha256 == sha256:
            if named not in (None, card):
                raise GraphError(f"{str(path)!r} is {card.id}, not {named.id}")
            named = card
    if named is None:
        raise InputError(
            f"{str(path)!r} carries no contract, and its sha256 is not that of a published file, "
            f"so its pre-processing is unknown; name its card, or make it self-describing: "
            f"facezoo export {_cards_of(kind)} {path} --output NEW.onnx"
        )
    _check_kind(str(path), named.id, find_class(named.model), kind)
    if not has_part(named.model, "graph"):
        raise InputError(
            f"{str(path)!r} carries no contract, and none can be added to a {named.model}; make "
            f"the file of its checkpoint: {_export_command(named)}"
        )
    return _prepared(named, path, sha256)


def _beside(prefix: Path) -> Iterator[Path]:
    """List the files of an artifact's prefix, whatever they are."""
    return prefix.parent.glob(f"{glob.escape(prefix.name)}.*")


def _about_file(path: Path) -> str:
    """Say what to pass instead of a file that is neither an .onnx nor a checkpoint."""
    name = path.name[: -len(".build.json")] if path.name.endswith(".build.json") else path.stem
    prefix = path.with_name(name)
    if path.suffix in (".so", ".json", ".params") and len(list(_beside(prefix))) > 1:
        return f"{str(path)!r} is one of the files of an artifact; give its prefix: {prefix}"
    return (
        f"{str(path)!r} is not a model; expected an .onnx file, an artifact prefix or a card's id, "
        'which "facezoo list" shows'
    )


def _about_weights(path: Path, kind: Type[FaceModel[Any]]) -> str:
    """Say what to do with a checkpoint, or with the name of a downloaded file."""
    file = WEIGHTS.get(str(path)) or next(
        (f for f in WEIGHTS.values() if f.file == path.name), None
    )
    if file is None:
        return (
            f"{str(path)!r} is a checkpoint; export it and give the .onnx: "
            f"facezoo export {_cards_of(kind)} {path} --output NEW.onnx"
        )
    cards = [card for card in CARDS.values() if _checkpoint_of(card) is file]
    if file.file.endswith(".onnx"):
        cards = [card for card in CARDS.values() if card.weights == file.name]
        return f"{str(path)!r} is a file of the card {cards[0].id}: give {cards[0].id!r}"
    if file.model not in MODELS:
        return f"{str(path)!r} is not a model: {file.holds}"
    command = f"facezoo export {_cards_of(find_class(file.model))} {path} --output NEW.onnx"
    if cards:
        command = _export_command(cards[0], str(path) if path.suffix else "")
    return f"{str(path)!r} is a checkpoint; export it and give the .onnx: {command}"


def _checkpoint_of(card: ModelCard) -> Optional[WeightFile]:
    """Find the checkpoint in which a card's network is published."""
    for name in (card.weights, f"{card.weights or card.id}_pth"):
        if name in WEIGHTS and WEIGHTS[name].file.endswith(CHECKPOINTS):
            return WEIGHTS[name]
    return None


def checkpoint_name(card: ModelCard) -> str:
    """Return the name under which the zoo lists a card's checkpoint; empty if it has none."""
    file = _checkpoint_of(card)
    return file.name if file else ""


def _cards_of(kind: Type[FaceModel[Any]]) -> str:
    """Name the cards of a kind of model in a command; CARD if it may be any."""
    cards = [card.id for card in CARDS.values() if _suits(find_class(card.model), kind)]
    return "|".join(cards) if len(cards) < len(CARDS) else "CARD"


def _export_command(card: ModelCard, checkpoint: str = "") -> str:
    """Return the command that exports a card's checkpoint."""
    file = _checkpoint_of(card)
    checkpoint = checkpoint or (file.file if file else f"{card.id}.pth")
    return f"facezoo export {card.id} {checkpoint} --output onnx/{card.id}.onnx"


# Published weights, prepared once -----------------------------------------------------------------


def _published(card: ModelCard) -> Path:
    """Return the raw-head graph of a card's published weights; download them if necessary."""
    file = WEIGHTS.get(card.weights)
    if file is None or not file.file.endswith(".onnx"):
        raise InputError(
            f"{card.id} has no published .onnx; export its checkpoint and give the file: "
            f"{_export_command(card)}"
        )
    source = _here_or_fetched(file)
    return _prepared(card, source, file.sha256 or sha256_of(source))


def _here_or_fetched(file: WeightFile) -> Path:
    try:
        return weights.find(file.name)
    except WeightsMissing:
        if weights.offline() or not file.sources:
            raise
    size = f"{file.size / 1e6:.1f} MB" if file.size else "its size is not published"
    _log.warning("%s: fetching %s, %s, licence: %s", file.name, file.file, size, file.licence)
    return weights.fetch(file.name)


def _prepared(card: ModelCard, source: Path, sha256: str) -> Path:
    """Return the raw-head graph of a released file, made once and stored beside the weights.

    Its name contains the version that made it and the hashes of the released file and of itself, so
    that a truncated or changed file is detected and made again. If the folder is not writable, the
    graph is kept only while this process runs.
    """
    stem = f"{card.id}-{__version__}-{sha256[:DIGITS]}"
    graphs, scratch = weights.home() / "graphs", Path(_scratch().name)
    with _preparing:
        # Scratch first: a damaged file that cannot be replaced is read, and named, once.
        for folder in (scratch, graphs):
            path = find_hashed(folder, stem, ".onnx")
            if path is not None:
                return path
        content = _raw_heads(card, source)
        try:
            return write_hashed(graphs, stem, ".onnx", content)
        except OSError as error:
            _log.warning(
                "%s cannot be written (%s), so %s is prepared for this process only; point "
                "FACEZOO_HOME at a writable folder",
                graphs,
                error.strerror or error,
                card.id,
            )
        return write_hashed(scratch, stem, ".onnx", content)


def _raw_heads(card: ModelCard, source: Path) -> bytes:
    """Make the self-describing graph of a released file."""
    with tempfile.TemporaryDirectory(prefix="facezoo-") as folder:
        graph = Path(folder) / "raw.onnx"
        export_graph(card, source, graph)
        return graph.read_bytes()


def export_graph(card: ModelCard, source: Path, target: Path, batch: Optional[int] = None) -> None:
    """Write the self-describing graph of a released file, which must be this card's.

    Parameters
    ----------
    card
        The variant that the file is said to be.
    source
        The released ``.onnx``.
    target
        The ``.onnx`` to write.
    batch
        Fixed batch size; None for a free one.

    Raises
    ------
    GraphError
        If the file is the network of another card; nothing is written then.
    """
    options = {} if card.model != "magface" else {"card_id": card.id}
    with tempfile.TemporaryDirectory(prefix="facezoo-") as folder:
        graph = Path(folder) / "raw.onnx"
        import_part(card.model, "graph").export_released(source, graph, batch=batch, **options)
        found = read_contract(graph).card_id
        if found != card.id:
            raise GraphError(f"{str(source)!r} is {found}, not {card.id}")
        write_bytes(target, graph.read_bytes())


@lru_cache(maxsize=None)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="facezoo-")
