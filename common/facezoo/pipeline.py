"""Networks with their decoders: a picture in, results out."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    Iterable,
    Iterator,
    List,
    Literal,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    overload,
)

import cv2
import numpy as np

from .backends import open_backend
from .backends.base import Backend, Infer, naming
from .card import Preprocess
from .contract import Contract
from .errors import DecodeError, ImageError, InputError
from .image.align import align_face
from .image.files import read_image_rgb, read_reduced_rgb
from .models import CARDS
from .models.magface import decode as magface
from .models.pipnet import decode as pipnet
from .models.pipnet.crop import DetectorCrop
from .models.scrfd import decode as scrfd
from .models.scrfd.decode import PROFILES, Profile
from .models.sdd_fiqa import decode as sdd_fiqa
from .results import (
    Embedding,
    FaceDetections,
    FaceEmbeddings,
    FaceLandmarks,
    FaceQualities,
    Landmarks,
    QualityScore,
    RawOutputs,
)

__all__ = [
    "FLIPS",
    "FaceDetector",
    "FaceEmbedder",
    "FaceModel",
    "FaceQuality",
    "LandmarkDetector",
    "PhotoEmbedder",
    "PhotoLandmarker",
    "PhotoQuality",
    "load",
]

FLIPS = ("none", "sum")

Result = TypeVar("Result")
Self = TypeVar("Self", bound="FaceModel[Any]")


class FaceModel(ABC, Generic[Result]):
    """A network on some runtime with its decoder: ``result = model(image_rgb)``.

    Parameters
    ----------
    backend
        The network.
    contract
        Its decode constants.
    """

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self.backend = backend
        self.contract = contract

    def __call__(self, image_rgb: np.ndarray) -> Result:
        """Apply the model to one picture.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.

        Returns
        -------
        Result
            In the picture's pixels.
        """
        return self._apply(self.backend.infer, image_rgb)

    @abstractmethod
    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Result:
        """Apply the model to one picture with the backend's single or its threaded ``infer``."""

    def stream(
        self,
        paths: Iterable[Path],
        visit: Optional[Callable[[Path, np.ndarray, Result], None]] = None,
    ) -> Iterator[Tuple[Path, Union[Result, ImageError]]]:
        """Apply the model to many files, as many at a time as pays.

        Parameters
        ----------
        paths
            Picture files.
        visit
            Called with path, picture as it was read and result while the picture is at hand, in a
            worker; to draw, for instance.

        Yields
        ------
        path : Path
            In the order given.
        result : Result or ImageError
            The error if the file cannot be read; the stream goes on.

        Raises
        ------
        BackendRunError, DecodeError, GraphError
            If the network fails; names the picture.
        """

        def one(infer: Infer, path: Path) -> Tuple[Path, Union[Result, ImageError]]:
            try:
                with naming(path):
                    image, result = self._apply_to_file(infer, path)
            except ImageError as error:
                return path, error
            if visit is not None:
                visit(path, image, result)
            return path, result

        return self.backend.map(one, paths)

    def _apply_to_file(self, infer: Infer, path: Path) -> Tuple[np.ndarray, Result]:
        """Return a picture as it was read, and the result in the pixels of the file."""
        image = read_image_rgb(path)
        return image, self._apply(infer, image)

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        return {"model": self.contract.card_id, **self.backend.settings()}

    def close(self) -> None:
        """Free the runtime's resources."""
        self.backend.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class FaceDetector(FaceModel[FaceDetections]):
    """SCRFD on some runtime: ``faces = detector(image_rgb)``.

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    profile
        Name of one of ``facezoo.models.scrfd.decode.PROFILES``, or thresholds of your own.
    fast_decode
        In :meth:`stream`, read JPEGs much larger than the network's input at 1/2, 1/4 or 1/8:
        faster, and not quite the same faces.

    Raises
    ------
    InputError
        If there is no profile of that name.
    """

    def __init__(
        self,
        backend: Backend,
        contract: Contract,
        profile: Union[str, Profile] = "demo",
        fast_decode: bool = False,
    ) -> None:
        super().__init__(backend, contract)
        self.fast_decode = fast_decode
        if isinstance(profile, str):
            if profile not in PROFILES:
                raise InputError(
                    f"profile {profile!r} is not known; expected one of {list(PROFILES)}"
                )
            profile = PROFILES[profile]
        self.profile = profile

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        settings = {**super().settings(), "profile": dataclasses.asdict(self.profile)}
        return {**settings, "fast_decode": True} if self.fast_decode else settings

    def _apply_to_file(self, infer: Infer, path: Path) -> Tuple[np.ndarray, FaceDetections]:
        if not self.fast_decode:
            return super()._apply_to_file(infer, path)
        image, image_hw = read_reduced_rgb(path, self.backend.preprocess.input_hw)
        return image, self._apply(infer, image).resized(image_hw)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        faces = self._detect(infer, image_rgb)
        if len(faces) or not self.profile.retry_border:
            return faces
        return self._detect_with_border(infer, image_rgb)

    def _detect(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        return scrfd.decode(infer(image_rgb), profile=self.profile, **self.contract.decode)[0]

    def _detect_with_border(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        """Try again with the face smaller: SCRFD misses faces that fill the picture."""
        share = self.profile.retry_border
        height, width = image_rgb.shape[:2]
        top, left = round(height * share), round(width * share)
        framed = cv2.copyMakeBorder(image_rgb, top, top, left, left, cv2.BORDER_CONSTANT)
        faces = self._detect(infer, framed)
        offset = np.array([left, top], np.float32)
        limit = np.array([width, height], np.float32)
        corners = np.clip(faces.boxes_xyxy.reshape(-1, 2, 2) - offset, 0.0, limit)
        return dataclasses.replace(
            faces,
            boxes_xyxy=corners.reshape(-1, 4),
            landmarks_xy=faces.landmarks_xy - offset,
            image_hw=(height, width),
            border=share if len(faces) else 0.0,
        )


class LandmarkDetector(FaceModel[Landmarks]):
    """PIPNet on some runtime: ``landmarks = model(crop_rgb)``, the crop of one face.

    Which crop decides the result: cut as the training data was (``datasets.wflw.WflwCrop``), or
    from a detector's box (:meth:`on_faces`).

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    meanface
        In place of the contract's: N points (N, 2) in [0, 1] of the crop.

    Raises
    ------
    InputError
        If the mean face cannot be used.
    """

    def __init__(
        self, backend: Backend, contract: Contract, meanface: Optional[np.ndarray] = None
    ) -> None:
        if meanface is not None:
            decode = {**contract.decode, "meanface": np.asarray(meanface).tolist()}
            contract = dataclasses.replace(contract, decode=decode)
        super().__init__(backend, contract)
        pipnet.load_meanface(**contract.decode)

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceLandmarks:
        """Find the landmarks of the faces that a detector found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.

        Returns
        -------
        FaceLandmarks
            In the photo's pixels, one entry a face.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        decode = dict(self.contract.decode)
        if not isinstance(decode["meanface"], str):
            points = np.asarray(decode["meanface"], np.float64)
            decode["meanface"] = hashlib.sha256(points.tobytes()).hexdigest()
        return {**super().settings(), "decode": decode}

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Landmarks:
        return pipnet.decode(infer(image_rgb), **self.contract.decode)[0]

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceLandmarks:
        crops = [DetectorCrop.of(box, faces.image_hw) for box in faces.boxes_xyxy.tolist()]
        found = [self._apply(infer, crop.cut(image_rgb)) for crop in crops]
        return FaceLandmarks(faces, tuple(map(DetectorCrop.to_photo, crops, found)))


class _PhotoModel(FaceModel[Result]):
    """A detector, then a network on every face that it finds."""

    def __init__(self, detector: FaceDetector, network: Any) -> None:
        super().__init__(network.backend, network.contract)
        self.detector = detector
        self.network = network

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        return {**self.network.settings(), "detector": self.detector.settings()}

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Result:
        found: Result = self.network._on_faces(infer, image_rgb, self.detector(image_rgb))
        return found

    def close(self) -> None:
        """Free the resources of both."""
        self.detector.close()
        self.network.close()


class PhotoLandmarker(_PhotoModel[FaceLandmarks]):
    """SCRFD, then PIPNet on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces. Load it with ``threads=1`` for :meth:`stream`, which runs several photos
        at a time.
    network
        Finds their landmarks.
    """


class FaceEmbedder(FaceModel[Embedding]):
    """MagFace or another recogniser on some runtime: ``embedding = model(face_rgb)``.

    The picture is one face, aligned to 112x112 (:func:`~facezoo.image.align.align_face`); of a
    photo and a detector's faces see :meth:`on_faces`.

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    flip
        ``none``, as MagFace's authors evaluate, or ``sum``: the mirrored face's embedding is added.
        A sum is about twice as long, so that its length is no quality any more.

    Raises
    ------
    InputError
        If ``flip`` is neither.
    """

    def __init__(self, backend: Backend, contract: Contract, flip: str = "none") -> None:
        super().__init__(backend, contract)
        if flip not in FLIPS:
            raise InputError(f"flip must be one of {', '.join(FLIPS)}, got {flip!r}")
        self.flip = flip

    def batch(self, faces_rgb: Sequence[np.ndarray]) -> List[Embedding]:
        """Embed several aligned faces in one run of the network.

        Parameters
        ----------
        faces_rgb
            Each (H, W, 3), uint8, RGB.
        """
        return self._embed(self.backend.infer_batch, faces_rgb)

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceEmbeddings:
        """Align and embed the faces that a detector with landmarks found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        return {**super().settings(), "flip": self.flip}

    def embed(self, infer: Infer, image_rgb: np.ndarray) -> Embedding:
        """Embed one aligned face with the backend's single or its threaded ``infer``."""
        return self._apply(infer, image_rgb)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Embedding:
        return self._embed(lambda images: infer(images[0]), [image_rgb])[0]

    def _embed(
        self, infer: Callable[[Sequence[np.ndarray]], RawOutputs], faces_rgb: Sequence[np.ndarray]
    ) -> List[Embedding]:
        found = self._decode(infer(faces_rgb))
        if self.flip == "none":
            return found
        mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in faces_rgb]
        others = self._decode(infer(mirrored))
        return [Embedding(one.vector + other.vector) for one, other in zip(found, others)]

    def _decode(self, raw: RawOutputs) -> List[Embedding]:
        found = magface.decode(raw)
        card = CARDS.get(self.contract.card_id)
        for embedding in found:
            if card and embedding.vector.size != card.outputs[0].channels:
                raise DecodeError(
                    f"an embedding has {embedding.vector.size} numbers, those of {card.id} have "
                    f"{card.outputs[0].channels}; export the model again"
                )
        return found

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceEmbeddings:
        crops = (align_face(image_rgb, points) for points in faces.landmarks_xy)
        return FaceEmbeddings(faces, tuple(self._apply(infer, crop) for crop in crops))


class PhotoEmbedder(_PhotoModel[FaceEmbeddings]):
    """SCRFD, then a recogniser on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces; a variant with landmarks. Load it with ``threads=1`` for :meth:`stream`,
        which runs several photos at a time.
    network
        Embeds them.
    """


class FaceQuality(FaceModel[QualityScore]):
    """SDD-FIQA on some runtime: ``quality = model(face_rgb)``, an aligned face, 112x112."""

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceQualities:
        """Align and score the faces that a detector with landmarks found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.

        Returns
        -------
        FaceQualities
            In the photo's pixels, one entry a face.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> QualityScore:
        return sdd_fiqa.decode(infer(image_rgb))[0]

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceQualities:
        crops = (align_face(image_rgb, points) for points in faces.landmarks_xy)
        return FaceQualities(faces, tuple(self._apply(infer, crop) for crop in crops))


class PhotoQuality(_PhotoModel[FaceQualities]):
    """SCRFD, then SDD-FIQA on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces; a variant with landmarks, which the alignment needs. Load it with
        ``threads=1`` for :meth:`stream`, which runs several photos at a time.
    network
        Scores them.
    """


MODELS: Dict[str, Type[FaceModel[Any]]] = {
    "scrfd": FaceDetector,
    "pipnet": LandmarkDetector,
    "sdd_fiqa": FaceQuality,
    "magface": FaceEmbedder,
}


@overload
def load(model: Literal["scrfd"], source: Union[str, Path], **options: Any) -> FaceDetector: ...


@overload
def load(
    model: Literal["pipnet"], source: Union[str, Path], **options: Any
) -> LandmarkDetector: ...


@overload
def load(model: Literal["sdd_fiqa"], source: Union[str, Path], **options: Any) -> FaceQuality: ...


@overload
def load(model: Literal["magface"], source: Union[str, Path], **options: Any) -> FaceEmbedder: ...


@overload
def load(model: str, source: Union[str, Path], **options: Any) -> FaceModel[Any]: ...


def load(
    model: str,
    source: Union[str, Path],
    *,
    engine: str = "auto",
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    device_id: int = 0,
    threads: Optional[int] = None,
    provider: str = "cpu",
    precision: str = "f32",
    **options: Any,
) -> FaceModel[Any]:
    """Open a model, ready for pictures.

    Parameters
    ----------
    model
        ``scrfd``, ``pipnet``, ``sdd_fiqa`` or ``magface``.
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    engine, vdsp, preprocess, device_id, threads, provider, precision
        See :func:`facezoo.backends.open_backend`.
    options
        The model's own: ``profile`` and ``fast_decode`` of :class:`FaceDetector`, ``meanface`` of
        :class:`LandmarkDetector`, ``flip`` of :class:`FaceEmbedder`.

    Returns
    -------
    FaceModel
        :class:`FaceDetector`, :class:`LandmarkDetector`, :class:`FaceQuality` or
        :class:`FaceEmbedder`.

    Raises
    ------
    InputError
        If the model or an option's value is not known, or the file is another model's.
    """
    if model not in MODELS:
        raise InputError(f"model {model!r} is not known; expected one of {list(MODELS)}")
    backend = open_backend(
        Path(source),
        engine=engine,
        vdsp=vdsp,
        preprocess=preprocess,
        device_id=device_id,
        threads=threads,
        provider=provider,
        precision=precision,
        cards=[card for card in CARDS.values() if card.model == model],
    )
    if backend.contract.model != model:
        raise InputError(
            f"{str(source)!r} holds {backend.contract.card_id}, a model of the recipe "
            f"{backend.contract.model}; expected one of {model}"
        )
    return MODELS[model](backend, backend.contract, **options)
