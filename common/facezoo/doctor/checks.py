"""The checks of ``facezoo doctor``: the machine, the model file, and the network's outputs.

Each check returns findings; none stops at the first.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from .. import __version__, weights
from ..backends import HOSTS
from ..backends.base import HostBackend
from ..backends.ort import available_providers
from ..backends.vsx import check_device
from ..card import ModelCard, Preprocess
from ..contract import Contract, find_contract, load_graph, read_contract
from ..errors import BackendError, GraphError, WeightsError
from ..files import sha256_of
from ..image.degrade import degrade
from ..image.preprocess import describe_differences
from ..machine import VNNI, cpu_flags, describe_machine
from ..models import WEIGHTS, find_card, has_part
from ..pipeline.load import differences_in_decoding, resolve
from ..vacc.toolchain import describe_toolchain
from .invariants import blur_invariant, invariants_of
from .mistakes import TOLERANCE, Diagnosis, Hypothesis, ReferenceSetup, hypotheses_of
from .reference import distance_from, drawn_pictures, read_reference

__all__ = [
    "Finding",
    "ModelFile",
    "check_environment",
    "check_invariants",
    "check_network",
    "check_preprocess",
    "check_weights",
    "describe_diagnosis",
    "read_model_file",
    "reference_setup",
]


PACKAGES = (
    *"numpy opencv-python-headless simplejpeg pillow pyyaml scipy tqdm onnx".split(),
    *(host.package for host in HOSTS.values()),
    "torch",
)
# Distributions that own the same import name: of each line only one may be installed.
RIVALS = (
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
)

# Instruction sets that decide the speed of a network.
CPU_FEATURES = ("avx2", "fma", "avx512f", *VNNI, "amx_bf16", "amx_int8")

# A build with unchanged arithmetic differs by less, as a share of the outputs' spread.
SAME_ARITHMETIC = 1e-3
BLUR = 3.5  # sigma in pixels of a face of 112: no facial features are left


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    part
        ``environment``, ``weights`` or ``behaviour``.
    status
        ``ok``, ``note`` (nothing to do), ``warning`` or ``problem``.
    what, says
        What was checked and what was found.
    remedy
        What to do; empty if nothing.
    """

    part: str
    status: str
    what: str
    says: str
    remedy: str = ""

    def to_dict(self) -> Dict[str, str]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ModelFile:
    """A model file, and which model it holds.

    Attributes
    ----------
    path
        The .onnx file as it was given.
    model
        The raw-head graph: the file itself, or what was made of a released one.
    card
        Which model it is.
    contract
        Contract of the file, or of the card if the file has none.
    source_sha256
        Hash of the weights it was made from.
    """

    path: Path
    model: Path
    card: ModelCard
    contract: Contract
    source_sha256: str


def check_environment() -> List[Finding]:
    """Check Python, packages, runtimes, the device, the vendor's tools and the processor."""
    return [Finding("environment", *row) for row in _environment()]


def _environment() -> Iterator[Tuple[str, ...]]:
    bits = 64 if sys.maxsize > 2**32 else 32
    yield "note", "facezoo", f"{__version__} on Python {platform.python_version()}, {bits} bit"
    have = {name: _version(name) for name in PACKAGES}
    here = ", ".join(f"{name} {version}" for name, version in have.items() if version)
    yield "note", "packages", here
    for name in ("onnxruntime", "onnx"):
        same = next((rivals for rivals in RIVALS if name in rivals), (name,))
        if not any(map(_version, same)):
            yield "problem", name, "not installed", f"pip install {name}"
    for rivals in RIVALS:
        both = [name for name in rivals if _version(name)]
        if len(both) > 1:
            says = f"{' and '.join(both)} overwrite each other's files"
            remedy = f"pip uninstall -y {' '.join(both)} && pip install {both[-1]}"
            yield "warning", "packages", says, remedy
    if available_providers():
        yield "ok", "ONNX Runtime", f"providers {', '.join(available_providers())}"
    machine = describe_machine()
    features = [name for name in CPU_FEATURES if name in cpu_flags()]
    shown = ", ".join(features) if features else "features unknown"
    yield "note", "processor", f"{machine['cores']} cores of {machine['cpu']}: {shown}"
    if features and not set(VNNI).intersection(features):
        yield "note", "int8", "no VNNI: int8 is no faster here, and needs reduced weights"
    yield _device_row()
    tools = describe_toolchain()
    for name in ("vamc", "vamp"):
        tool = tools[name]
        found = (
            f"the vendor's, {tool['where']}" if tool else f"none; facezoo {name} is used instead"
        )
        yield "note", name, found
    try:
        yield "note", "weights", f"in {weights.home()}"
    except WeightsError as error:
        yield "warning", "weights", str(error)


def _version(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device_row() -> Tuple[str, ...]:
    try:
        check_device(0)
    except BackendError as error:
        return "note", "device", str(error)
    return "ok", "device", "device 0 answers"


def check_weights(model_file: ModelFile) -> List[Finding]:
    """Check a file's hash, contract, opset, batch and declared shapes."""
    return [Finding("weights", *row) for row in _weights(model_file)]


def _weights(model_file: ModelFile) -> Iterator[Tuple[str, ...]]:
    # This needs optional packages.
    from ..graphs.info import shapes_at, zeros

    sha256 = sha256_of(model_file.path)
    yield "note", "file", f"{model_file.path}, {model_file.path.stat().st_size / 1e6:.2f} MB"
    known = {file.sha256: file for file in WEIGHTS.values() if file.sha256}
    file = known.get(sha256) or known.get(model_file.source_sha256)
    if file is not None:
        made = "is" if file.sha256 == sha256 else "was made from"
        says = f"{made} the published {file.name} (sha256 {file.sha256[:12]}…)"
        yield "ok", "hash", says
        yield "note", "licence", f"{file.licence}; commercial use: {file.commercial}"
    else:
        yield "note", "hash", f"sha256 {sha256[:12]}…, none of the published files"
    own = find_contract(model_file.path)
    if own is None:
        says = f"none: taken for {model_file.card.id}"
        yield (
            "warning",
            "contract",
            says,
            "export it with the recipe, so that it is self-describing",
        )
    else:
        yield "ok", "contract", f"{own.card_id}, outputs {', '.join(own.output_names)}"
        for line in differences_in_decoding(own):
            yield "warning", "contract", line, "export it again, unless it is intended"
    graph = load_graph(model_file.path, check=True)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    status = "ok" if opset <= 17 and graph.ir_version <= 10 else "warning"
    remedy = "" if status == "ok" else "older runtimes cannot load it; export with opset 17 or less"
    yield status, "opset", f"{opset}, IR version {graph.ir_version}", remedy
    shape = graph.graph.input[0].type.tensor_type.shape.dim
    batch = shape[0].dim_value
    yield "note", "batch", f"fixed to {batch}" if batch else "free"
    feed_shape = (batch or 1, 3, *(d.dim_value or s for d, s in zip(shape[2:], _hw(model_file))))
    names = [entry.name for entry in graph.graph.output]
    try:
        feed = zeros(feed_shape)
        real = shapes_at(graph, {graph.graph.input[0].name: feed}, names)
    except GraphError as error:
        raise GraphError(f"{str(model_file.path)!r}: {error}") from error
    stale = []
    for entry in graph.graph.output:
        dims = [d.dim_value for d in entry.type.tensor_type.shape.dim]
        if any(said and said != is_ for said, is_ in zip(dims, real[entry.name])):
            stale.append(entry.name)
    if stale:
        says = f"{', '.join(stale)}: declared differently from what the graph computes"
        yield "warning", "shapes", says, "the vendor's compiler may use them; export it again"
    else:
        yield "ok", "shapes", "as declared"


def _hw(model_file: ModelFile) -> Tuple[int, int]:
    return model_file.contract.preprocess.input_hw


def reference_setup(
    model_file: ModelFile,
    backend: HostBackend,
    image: np.ndarray,
    unaligned: Optional[Mapping[str, np.ndarray]] = None,
) -> ReferenceSetup:
    """Combine a network, an image and the pre-processing of the card."""
    preprocess = dataclasses.replace(model_file.card.preprocess, input_hw=_hw(model_file))
    decode = model_file.card.decode if model_file.card.model == "scrfd" else {}

    def run(tensor: np.ndarray) -> Mapping[str, np.ndarray]:
        return backend.run_tensor(tensor, (None,)).arrays  # type: ignore[arg-type]

    return ReferenceSetup(
        run,
        preprocess,
        image,
        tuple(decode.get("strides", ())),
        int(decode.get("anchors_per_cell", 0)),
        unaligned or {},
    )


def check_network(model_file: ModelFile, backend: HostBackend) -> Finding:
    """Compare the network's outputs for the drawn images with the recorded values.

    On a mismatch the common mistakes of an export are tried: channel order, normalisation, sigmoid
    or stride inside the graph.
    """
    what = "network"
    recorded = read_reference(model_file.card.id, model_file.source_sha256)
    if recorded is None:
        says = (
            f"no values are recorded for these weights of {model_file.card.id}: channel order or "
            "range changed inside the graph cannot be detected; mistakes of your program can, with "
            "--observed"
        )
        return Finding("behaviour", "note", what, says)
    setups = [reference_setup(model_file, backend, picture) for picture in drawn_pictures()]
    right = max(
        distance_from(entry, setup.run(hypotheses_of(setup)[0].tensor()))
        for setup, entry in zip(setups, recorded)
    )
    if right <= TOLERANCE:
        exact = "as recorded" if right <= SAME_ARITHMETIC else "close to the recorded values"
        says = f"{exact}: within {right:.1e} of the outputs' spread"
        return Finding("behaviour", "ok", what, says)
    distances: Dict[Tuple[str, ...], Tuple[float, str]] = {}
    for setup, entry in zip(setups, recorded):
        for name, says, distance in _readings(setup, entry):
            before = distances.get(name, (0.0, ""))[0]
            distances[name] = (max(before, distance), says)
    best = min(distances, key=lambda name: distances[name][0])
    if distances[best][0] <= TOLERANCE:
        remedy = "export it again with the recipe's source_code"
        return Finding("behaviour", "problem", what, distances[best][1], remedy)
    if not best and _is_quantised(model_file.model):
        says = f"an int8 build, {right:.2g} of the outputs' spread away from the recorded values"
        remedy = "facezoo compare measures the loss of int8 on photos"
        return Finding("behaviour", "note", what, says, remedy)
    says = f"not explained: {right:.2g} of the outputs' spread away from the recorded values"
    return Finding("behaviour", "problem", what, says, "other weights, or a broken build")


def check_invariants(
    model_file: ModelFile, backend: HostBackend, face: Optional[np.ndarray] = None
) -> List[Finding]:
    """Check the invariants, for weights of which no values are recorded.

    ``face`` is a sharp face in the network's input size, (H, W, 3), uint8, RGB, which a quality
    network must score higher than a blurred copy. See :mod:`facezoo.doctor.invariants`.
    """
    outputs = [backend.infer(picture).arrays for picture in drawn_pictures()]
    invariants = invariants_of(model_file.card.model, model_file.contract.decode, outputs)
    if face is not None and model_file.card.task == "face_quality":
        pictures = (face, degrade(face, "blur", BLUR))
        invariants.append(
            blur_invariant(*(_only_number(backend.infer(one).arrays) for one in pictures))
        )
    wrong = [says for holds, says in invariants if not holds]
    remedy = "export it again with the recipe's source_code, from trained weights"
    if wrong:
        return [Finding("behaviour", "problem", "invariants", says, remedy) for says in wrong]
    says = f"all hold: {'; '.join(says for _, says in invariants)}"
    return [Finding("behaviour", "ok", "invariants", says)]


def _only_number(arrays: Mapping[str, np.ndarray]) -> float:
    return float(next(iter(arrays.values())).reshape(-1)[0])


def _is_quantised(model: Path) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in load_graph(model).graph.node)


def _readings(
    setup: ReferenceSetup, recorded: Mapping[str, Any]
) -> Iterator[Tuple[Tuple[str, ...], str, float]]:
    right: Mapping[str, np.ndarray] = {}
    for hypothesis in hypotheses_of(setup):
        if hypothesis.undo is not None:
            continue
        outputs = setup.run(hypothesis.tensor())
        right = right or outputs
        says = f"the graph expects a different input: {hypothesis.says}"
        yield hypothesis.mistakes, says, distance_from(recorded, outputs)
    if setup.strides:
        # The logit undoes a sigmoid; clipped away from 0 and 1, where it is infinite.
        logits = {n: _logit(a) if n.startswith("score") else a for n, a in right.items()}
        says = "scores are probabilities: the sigmoid is in the graph, so it is applied twice"
        yield ("sigmoid twice",), says, distance_from(recorded, logits)
        shrunk = {n: a / _stride(n) for n, a in right.items()}
        says = "distances are in pixels: the stride is in the graph, so it is applied twice"
        yield ("stride twice",), says, distance_from(recorded, shrunk)


def _logit(values: np.ndarray) -> np.ndarray:
    values = np.clip(values.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(values / (1.0 - values)), np.float32)


def _stride(name: str) -> float:
    return 1.0 if name.startswith("score") else float(name.partition("_")[2])


def check_preprocess(model_file: ModelFile, given: Preprocess, source: str) -> Iterator[Finding]:
    """Compare a pre-processing with the card's, in words."""
    lines = describe_differences(given, model_file.card.preprocess)
    allowed = [line for line in lines if line.startswith("input_hw")]
    for line in lines:
        status = "note" if line in allowed else "warning"
        yield Finding("behaviour", status, source, line)
    if not lines:
        yield Finding("behaviour", "ok", source, "the pre-processing is the card's")


def describe_diagnosis(what: str, diagnosis: Diagnosis) -> Iterator[Finding]:
    """Yield the findings of a comparison."""
    right = diagnosis.distances["right"]
    if diagnosis.verdict == "consistent":
        yield Finding(
            "behaviour", "ok", what, f"consistent with the right set-up (distance {right:.2g})"
        )
    for cause in diagnosis.causes if diagnosis.verdict == "explained" else ():
        names = " and ".join(cause.mistakes)
        says = f"{names}: {cause.says}"
        if len(cause.mistakes) > 1:
            says = f"{names} together explain it, and no single mistake does"
        yield Finding("behaviour", "problem", what, says, _remedy(cause))
    if diagnosis.verdict == "not explained":
        says = f"not explained: {diagnosis.hint}"
        remedy = "pass an earlier stage: the network's input first, then its raw outputs"
        yield Finding("behaviour", "problem", what, says, remedy)
    if diagnosis.unseen:
        says = f"not detectable with this image: {', '.join(diagnosis.unseen)}"
        yield Finding("behaviour", "note", what, says)


def _remedy(cause: Hypothesis) -> str:
    usual = "pre-process as its card says: facezoo info"
    return "; ".join(dict.fromkeys(_REMEDIES.get(name, usual) for name in cause.mistakes))


_REMEDIES = {
    "BGR": "OpenCV reads BGR: image[:, :, ::-1], or swapRB=True",
    "RGB": "this network takes BGR: do not convert what OpenCV reads",
    "not aligned": "cut the face with facezoo.image.align.align_face and the five points",
    "normalised before the norm": "read the norm first, divide by it afterwards",
    "sigmoid twice": "remove one sigmoid",
    "sigmoid never": "apply 1 / (1 + exp(-x)) to the scores",
    "stride missing": "multiply by the stride of each map",
    "x/y swapped": "write boxes as left, top, right, bottom",
    "wrong mean face": "use the meanface.txt of the data set the network was trained on",
    "neighbours left out": "average as facezoo.models.pipnet.decode does",
    "shares": "multiply the points by the width and height of the crop",
    "x apart from y": "read the output as (N, 2): x0 y0 x1 y1 and so on",
    "true division": "use //, or torch.div(..., rounding_mode='floor')",
    "letterbox anchor": "use one placement for both ways: facezoo.image.resize.fit_image",
}


def read_model_file(path: Path, card: Optional[ModelCard]) -> ModelFile:
    """Read the network of a file; a released one is prepared as by :func:`facezoo.load`.

    Raises
    ------
    GraphError
        If the file carries no contract and no card was named, or it is another card's.
    """
    contract = find_contract(path)
    if contract is not None:
        own = find_card(contract.card_id)
        if card is not None and own != card:
            raise GraphError(f"{str(path)!r} says it is {own.id}, not {card.id}")
        return ModelFile(path, path, own, contract, contract.source_sha256)
    if card is None:
        raise GraphError(
            f"{str(path)!r} carries no contract; name the network, such as scrfd_500m_bnkps"
        )
    if not has_part(card.model, "graph"):
        return ModelFile(path, path, card, Contract.from_card(card), sha256_of(path))
    model, _ = resolve(path, card=card.id)
    return ModelFile(path, model, card, read_contract(model), sha256_of(path))
