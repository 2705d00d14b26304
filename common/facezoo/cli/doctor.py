r"""Check the machine and a model file; find the mistake behind wrong numbers.

Without a model only the machine is checked; with one also its file, and its outputs against the
recorded ones of these weights. With data of your own program for an image, the common mistake that
explains them is named: in the network's input, in its raw outputs, or in the faces.

  facezoo doctor
  facezoo doctor scrfd_500m_bnkps
  facezoo doctor --model deploy_weights/scrfd/mod --vdsp my.json
  facezoo doctor --model onnx/scrfd_500m_bnkps.onnx --image photo.jpg --observed my_input.npz
  facezoo doctor w600k_mbf --image photo.jpg --observed my_embedding.npz

Files that --observed accepts, made by your program from the same image:

  .npz of one array (1, 3, H, W)             the network's input:  np.savez("x.npz", x=tensor)
  .npz of the outputs under their names      raw outputs; an embedding alone needs no name
  .json {"faces": [{"box_xyxy": [l, t, r, b], "score": s, "landmarks_xy": [[x, y], ...]}, ...]}
                                             a detector's faces; landmarks if there are any
  .json {"points_xy": [[x, y], ...]}         landmarks; the image is the network's input crop
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from .. import weights
from ..arrays import read_arrays
from ..artifact import read_artifact
from ..backends.base import HostBackend
from ..card import ModelCard
from ..doctor.mistakes import (
    DecodedFaces,
    Diagnosis,
    ReferenceSetup,
    diagnose_faces,
    diagnose_outputs,
    diagnose_points,
    diagnose_tensor,
    unaligned_crops,
)
from ..doctor.reference import drawn_pictures, write_reference
from ..errors import UNREADABLE, GateError, InputError
from ..files import counted, finite, read_text
from ..image.align import align_face
from ..image.files import read_image_rgb
from ..image.preprocess import VdspOperation
from ..models import CARDS, find_card
from ..models.pipnet.decode import read_meanface
from ..models.scrfd.model import FaceDetector
from ..pipeline.load import load, split_engine
from ..vacc.vdsp import read_vdsp
from . import flags
from .options import runtime_of
from .outputs import write_report

if TYPE_CHECKING:
    from ..doctor.checks import Finding, ModelFile

__all__ = ["configure", "run"]

SCHEMA = "facezoo.doctor/1"
DETECTOR = "scrfd_500m_bnkps"
MARKS = {"ok": "ok", "note": "-", "warning": "WARN", "problem": "FAIL"}
ALIGNED = ("magface", "sdd_fiqa")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "card",
        metavar="CARD",
        nargs="?",
        help="a variant that facezoo list shows; not needed if the file contains it",
    )
    flags.add(
        parser,
        "--model",
        "file to check: a card's id, an artifact prefix, or an exported or released .onnx "
        "(default: the card's download)",
        old=("--onnx", "--model_prefix_path"),
    )
    flags.add(
        parser,
        "--vdsp",
        "vdsp_params JSON that you use, to compare it with the card's (default: none is compared)",
        old=("--vdsp_params_info", "--vdsp_params"),
    )
    flags.add(parser, "--image", "image that --observed was made from (default: a synthetic one)")
    flags.add(
        parser,
        "--observed",
        "data of your program for it, see above (default: only the model is checked)",
        type=Path,
        metavar="FILE",
    )
    flags.add(
        parser,
        "--detector",
        "SCRFD that finds the face to align, for networks of aligned faces. An image of the "
        "network's own size counts as aligned",
        default=DETECTOR,
    )
    flags.add(
        parser,
        "--meanface",
        "the mean face your PIPNet program uses (default: the model's)",
        type=Path,
        metavar="FILE",
    )
    flags.add(parser, "--json", "write all findings as JSON; - is the standard output")
    flags.add(
        parser,
        "--print-reference",
        "for developers: print the values to compare with, to record them",
        action="store_true",
        old=("--record",),
    )
    flags.add_runtime(parser.add_argument_group("runtime"))


def run(args: argparse.Namespace) -> int:
    """Run the checks, print the findings, and fail with exit code 3 if there is a problem."""
    from ..backends.ort import OrtBackend
    from ..doctor.checks import check_environment, check_weights

    findings = check_environment()
    # The machine is shown even if a later check fails.
    if not args.print_reference:
        _print(findings)
    shown = len(findings)
    diagnosis: Optional[Diagnosis] = None
    model_file = _model_file(args)
    if model_file is not None:
        findings += check_weights(model_file)
        backend = OrtBackend(model_file.model, model_file.contract, exact=True)
        with backend:
            if args.print_reference:
                return _record(model_file, backend)
            behaviour, diagnosis = _behaviour(args, model_file, backend)
            findings += behaviour
    elif args.observed or args.image or args.vdsp or args.print_reference:
        raise InputError("name the network: CARD or --model")
    _print(findings[shown:])
    if args.json:
        entry: Dict[str, Any] = {"schema": SCHEMA, "findings": [one.to_dict() for one in findings]}
        entry["diagnosis"] = diagnosis and diagnosis.to_dict()
        write_report(args.json, finite(entry), indent=2)
    problems = sum(finding.status == "problem" for finding in findings)
    if problems:
        raise GateError(f"{counted(problems, 'problem')} found")
    return 0


def _print(findings: List[Finding]) -> None:
    for line in _lines(findings):
        print(line)


def _lines(findings: List[Finding]) -> Iterator[str]:
    width = max((len(finding.what) for finding in findings), default=0)
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            yield part
        yield f"  {MARKS[finding.status]:4}  {finding.what:{width}}  {finding.says}"
        if finding.remedy:
            yield f"  {'':4}  {'':{width}}  -> {finding.remedy}"


def _model_file(args: argparse.Namespace) -> Optional[ModelFile]:
    from ..doctor.checks import read_model_file

    card: Optional[ModelCard] = find_card(args.card) if args.card else None
    path: Optional[Path] = None
    if args.model is not None:
        text, _ = split_engine(args.model)
        if card is None and text in CARDS:
            card = CARDS[text]
        path = None if text in CARDS else Path(text)
        if path is not None and path.suffix != ".onnx":
            path = read_artifact(path).model
            if path is None:
                raise InputError(
                    f"{text!r} holds only the vendor's files; keep the mod.onnx of facezoo "
                    "compile beside them, with which they are compared"
                )
    if path is None and card is not None:
        path = weights.find(card.weights or card.id)
    return read_model_file(path, card) if path is not None else None


def _record(model_file: ModelFile, backend: HostBackend) -> int:
    from ..doctor.checks import reference_setup

    setups = [reference_setup(model_file, backend, picture) for picture in drawn_pictures()]
    outputs = []
    for setup in setups:
        outputs.append(setup.run(VdspOperation(setup.preprocess)(setup.image)[0][None]))
    print(write_reference(model_file.card.id, model_file.source_sha256, outputs))
    return 0


def _behaviour(
    args: argparse.Namespace, model_file: ModelFile, backend: HostBackend
) -> Tuple[List[Finding], Optional[Diagnosis]]:
    from ..doctor.checks import (
        check_invariants,
        check_network,
        check_preprocess,
        describe_diagnosis,
        reference_setup,
    )

    findings = [check_network(model_file, backend)]
    diagnosis: Optional[Diagnosis] = None
    image, unaligned = _picture(args, model_file)
    if findings[0].status == "note":
        findings += check_invariants(model_file, backend, image if args.image else None)
    setup = reference_setup(model_file, backend, image, unaligned)
    own = model_file.contract.preprocess
    given = read_vdsp(args.vdsp, own) if args.vdsp else own
    what = "vdsp JSON" if args.vdsp else "contract"
    findings += check_preprocess(model_file, given, what)
    if given.input_hw == setup.preprocess.input_hw:
        diagnosis = diagnose_tensor(setup, VdspOperation(given)(image)[0][None])
        findings += describe_diagnosis(f"its tensors ({what})", diagnosis)
    if args.model is not None and _is_run(args.model):
        runtime, vdsp = runtime_of(args), args.vdsp
        with load(args.model, runtime=runtime, vdsp=vdsp) as model:
            outputs = model.backend.infer(image).arrays
            name = f"outputs of {model.backend.name} on {model.backend.device}"
        diagnosis = diagnose_outputs(setup, outputs)
        findings += describe_diagnosis(name, diagnosis)
    if args.observed is not None:
        if args.image is None:
            raise InputError("--observed needs the image that it was made from; give it as --image")
        diagnosis = _diagnose_named(args, model_file, setup)
        findings += describe_diagnosis(args.observed.name, diagnosis)
    return findings, diagnosis


def _is_run(model: str) -> bool:
    """Return whether a model is a build, or one whose engine is named, to compare its outputs."""
    text, engine = split_engine(model)
    return bool(engine) or not (text in CARDS or text.endswith(".onnx"))


def _picture(
    args: argparse.Namespace, model_file: ModelFile
) -> Tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Return the network's input image, and the crops of programs without alignment."""
    if args.image is None:
        return drawn_pictures()[0], {}
    image = read_image_rgb(args.image)
    input_hw = model_file.contract.preprocess.input_hw
    if model_file.card.model not in ALIGNED or image.shape[:2] == input_hw:
        return image, {}
    with load(args.detector, kind=FaceDetector) as detector:
        faces = detector(image)
    if not len(faces):
        raise InputError(
            f"{str(args.image)!r}: no face was found to align; give the aligned face itself, "
            f"{input_hw[1]}x{input_hw[0]}"
        )
    crop = align_face(image, faces.landmarks_xy[0], input_hw[0])
    return crop, unaligned_crops(image, faces.boxes_xyxy[0].tolist(), input_hw)


def _diagnose_named(
    args: argparse.Namespace, model_file: ModelFile, setup: ReferenceSetup
) -> Diagnosis:
    """Explain what was observed; errors name its file."""
    try:
        return _diagnose(args, model_file, setup)
    except InputError as error:
        if repr(str(args.observed)) in str(error):
            raise
        raise InputError(f"{str(args.observed)!r}: {error}") from error


def _diagnose(args: argparse.Namespace, model_file: ModelFile, setup: ReferenceSetup) -> Diagnosis:
    observed: Path = args.observed
    if observed.suffix == ".json" and model_file.card.task == "face_alignment":
        given = read_meanface(args.meanface) if args.meanface else None
        points = _read_points(observed)
        return diagnose_points(setup, points, given=given, **model_file.contract.decode)
    if observed.suffix == ".json":
        return diagnose_faces(setup, _read_faces(observed))
    arrays = _read_arrays(observed)
    alone = next(iter(arrays.values()))
    height, width = setup.preprocess.input_hw
    if len(arrays) == 1 and alone.shape[-3:] == (3, height, width):
        return diagnose_tensor(setup, alone)
    return diagnose_outputs(setup, arrays)


def _read_arrays(path: Path) -> Dict[str, np.ndarray]:
    try:
        arrays = {k: np.asarray(array, np.float32) for k, array in read_arrays(path).items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not an .npz, .npy or .json file: {error}") from error
    if not arrays:
        raise InputError(f"{str(path)!r} holds no array; expected the network's input or outputs")
    return arrays


def _read_json(path: Path, key: str) -> List[Any]:
    try:
        found = json.loads(read_text(path))[key]
        if not isinstance(found, list):
            raise ValueError(f"{key!r} is not a list")
    except UNREADABLE as error:
        raise InputError(
            f'{str(path)!r} cannot be used ({error}); expected {{"{key}": [...]}}, see --help'
        ) from error
    return found


def _read_points(path: Path) -> np.ndarray:
    points = _read_json(path, "points_xy")
    try:
        found = np.array(points, np.float32)
        if not np.isfinite(found).all():
            raise ValueError("a number is not finite")
    except UNREADABLE as error:
        raise InputError(
            f'{str(path)!r} holds no landmarks ({error}); expected {{"points_xy": [[x, y], ...]}}'
        ) from error
    return found


def _read_faces(path: Path) -> DecodedFaces:
    faces = _read_json(path, "faces")
    try:
        marks = [face["landmarks_xy"] for face in faces if face.get("landmarks_xy")]
        boxes = np.array([face["box_xyxy"] for face in faces], np.float32).reshape(-1, 4)
        scores = np.array([face["score"] for face in faces], np.float32)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("a number is not finite")
        with_marks = np.array(marks, np.float32) if marks and len(marks) == len(faces) else None
        return DecodedFaces(boxes, scores, with_marks)
    except UNREADABLE as error:
        raise InputError(
            f'{str(path)!r} holds no faces ({error}); expected {{"faces": [{{"box_xyxy": '
            '[l, t, r, b], "score": s}, ...]}'
        ) from error
