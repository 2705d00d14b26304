"""Base class of all models: a backend with a decoder, for one image or a stream of images."""

from __future__ import annotations

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
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import numpy as np

from ..backends.base import Backend, Infer, naming
from ..contract import Contract
from ..errors import ImageError
from ..image.files import read_image_rgb
from ..results import Landmarks, RawOutputs

__all__ = [
    "FaceCrop",
    "FaceModel",
    "LandmarkModel",
]


Result = TypeVar("Result")
Self = TypeVar("Self", bound="FaceModel[Any]")


class FaceModel(ABC, Generic[Result]):
    """A network on any runtime with its decoder: ``result = model(image_rgb)``.

    Parameters
    ----------
    backend
        The network.
    contract
        Its contract with the decode constants.
    """

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self.backend = backend
        self.contract = contract

    def __call__(self, image_rgb: np.ndarray) -> Result:
        """Apply the model to one image.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.

        Returns
        -------
        Result
            Result in pixels of the image.
        """
        return self.batch([image_rgb])[0]

    @abstractmethod
    def batch(self, images_rgb: Sequence[np.ndarray], *, shared: bool = False) -> List[Result]:
        """Apply the model to several images in one run of the network.

        Parameters
        ----------
        images_rgb
            Each (H, W, 3), uint8, RGB.
        shared
            Compute on one core instead of all, because other threads call it at the same time.

        Returns
        -------
        list of Result
            One per image, in their order, each in the pixels of its image.
        """

    def _infer(self, images_rgb: Sequence[np.ndarray], shared: bool) -> RawOutputs:
        """Run the network once on several images, as requested by :meth:`batch`."""
        return (self.backend.infer_shared if shared else self.backend.infer_batch)(images_rgb)

    def stream(
        self,
        paths: Iterable[Path],
        visit: Optional[Callable[[Path, np.ndarray, Result], None]] = None,
    ) -> Iterator[Tuple[Path, Union[Result, ImageError]]]:
        """Apply the model to many files in parallel.

        Parameters
        ----------
        paths
            Image files.
        visit
            Called in a worker with path, image as read and result, for example to draw.

        Yields
        ------
        path : Path
            In the given order.
        result : Result or ImageError
            The error if the file cannot be read; the stream continues.

        Raises
        ------
        BackendRunError, DecodeError, GraphError
            If the network fails; names the image.
        """

        def one(_: Infer, path: Path) -> Tuple[Path, Union[Result, ImageError]]:
            try:
                with naming(path):
                    image, result = self._apply_to_file(path)
            except ImageError as error:
                return path, error
            if visit is not None:
                visit(path, image, result)
            return path, result

        return self.backend.map(one, paths)

    def _apply_to_file(self, path: Path) -> Tuple[np.ndarray, Result]:
        """Return an image as read, and the result in pixels of the file."""
        image = read_image_rgb(path)
        return image, self.batch([image], shared=True)[0]

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
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


class FaceCrop(Protocol):
    """Where a face was cut out of a photo."""

    def cut(self, image_rgb: np.ndarray) -> np.ndarray:
        """Cut the crop out of the photo, (h, w, 3)."""

    def to_photo(self, landmarks: Landmarks) -> Landmarks:
        """Map landmarks from the pixels of :meth:`cut` to those of the photo."""


class LandmarkModel(FaceModel[Landmarks]):
    """A network that finds the landmarks in the crop of one face."""

    @abstractmethod
    def crop_of(self, box_xyxy: Sequence[float], image_hw: Tuple[int, int]) -> FaceCrop:
        """Return the crop that the network expects around a detector's box.

        Parameters
        ----------
        box_xyxy
            Left, top, right, bottom in pixels of the photo.
        image_hw
            Height and width of the photo.
        """
