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
    Optional,
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

__all__ = [
    "FaceModel",
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
        return self._apply(self.backend.infer, image_rgb)

    @abstractmethod
    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Result:
        """Apply the model to one image with the backend's single or its threaded ``infer``."""

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
        """Return an image as read, and the result in pixels of the file."""
        image = read_image_rgb(path)
        return image, self._apply(infer, image)

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
