"""Base class of all models: a backend with a decoder, for one image or a stream of images."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from itertools import islice
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
    overload,
)

import numpy as np

from ..backends.base import Backend, Infer, naming
from ..contract import Contract
from ..errors import ImageError, InputError
from ..image.inputs import AnyImage, AnyImageT, as_rgb, check_image
from ..results import Landmarks, RawOutputs

__all__ = [
    "FaceCrop",
    "FaceModel",
    "LandmarkModel",
]


Item = TypeVar("Item")
Result = TypeVar("Result")
Self = TypeVar("Self", bound="FaceModel[Any]")

# Images of a list that are held, and given to the network, at a time.
LIST_BATCH = 4


class FaceModel(ABC, Generic[Result]):
    """A network on any runtime with its decoder: ``result = model(image)``.

    Parameters
    ----------
    backend
        The network.
    contract
        Its contract with the decode constants.
    """

    # Images of a stream that a worker takes at a time.
    _at_a_time = 1
    _closed = False
    # The process that opened it; 0 if that does not matter.
    _process = 0
    # Opens the same model once more, in another process; set by facezoo.load.
    _reopen: Optional[Callable[[], FaceModel[Any]]] = None

    def __init__(self, backend: Backend, contract: Contract) -> None:
        self._process = os.getpid()
        self.backend = backend
        self.contract = contract

    @overload
    def __call__(self, image: AnyImageT, *, bgr: bool = ...) -> Result: ...

    @overload
    def __call__(
        self, image: Union[List[AnyImageT], Tuple[AnyImageT, ...]], *, bgr: bool = ...
    ) -> List[Result]: ...

    def __call__(self, image: Any, *, bgr: bool = False) -> Any:
        """Apply the model to one image, or to each of a list.

        Parameters
        ----------
        image
            A path; a PIL image; an array of shape (H, W, 3), uint8, RGB; or a list of them.
        bgr
            Arrays are in OpenCV's order, BGR.

        Returns
        -------
        Result, or list of Result
            Result in pixels of the upright image; for a list one per image, in their order.

        Raises
        ------
        ImageError
            If an image cannot be read, or is something else; for a list its position is named.
            :meth:`stream` goes on with the next image instead.
        InputError
            If the model is closed, or was opened before this process was forked.
        """
        if not isinstance(image, (list, tuple)):
            return self.batch([as_rgb(image, bgr)])[0]
        self._check_usable()
        step = LIST_BATCH if self.backend.takes_batches else 1
        results: List[Result] = []
        for start in range(0, len(image), step):
            part = [
                _as_rgb_naming(one, bgr, start + index)
                for index, one in enumerate(image[start : start + step])
            ]
            results += self.batch(part)
        return results

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
        self._check_usable()
        for image in images_rgb:
            check_image(image)
        return (self.backend.infer_shared if shared else self.backend.infer_batch)(images_rgb)

    def _check_usable(self) -> None:
        """Refuse to run after :meth:`close`, and in a fork, where the runtime hangs."""
        if self._closed:
            raise InputError("this model is closed; open it again with facezoo.load")
        if self._process not in (0, os.getpid()):
            raise InputError(
                f"this model was opened in process {self._process}, and the threads of its runtime "
                "do not survive a fork; open it in the new process, or start that with 'spawn'"
            )

    def stream(
        self,
        images: Iterable[AnyImageT],
        visit: Optional[Callable[[AnyImageT, np.ndarray, Result], None]] = None,
        *,
        bgr: bool = False,
    ) -> Iterator[Union[Result, ImageError]]:
        """Apply the model to many images in parallel.

        Parameters
        ----------
        images
            Paths, PIL images or arrays of shape (H, W, 3), uint8, RGB, such as the frames of a
            video; consumed as they are needed.
        visit
            Called in a worker with image as given, as read and result, for example to draw.
        bgr
            Arrays are in OpenCV's order, BGR.

        Yields
        ------
        Result or ImageError
            One per image, in their order; its ``source`` is the image as given, so a list of
            results keeps frames too. The error if the image cannot be read, or what ``visit``
            raised; the stream continues.

        Raises
        ------
        InputError
            If it is given a single image, or the model is closed or was opened before a fork.
        BackendRunError, DecodeError, GraphError
            If the network fails; names the image.
        """
        self._check_usable()
        if isinstance(images, (str, os.PathLike, np.ndarray)) or not hasattr(images, "__iter__"):
            raise InputError(
                f"stream needs several images, got a single {type(images).__name__}; give a list "
                "of paths, PIL images or arrays, or call the model with one"
            )

        def some(
            _: Infer, numbered: Sequence[Tuple[int, AnyImageT]]
        ) -> List[Union[Result, ImageError]]:
            given = [image for _, image in numbered]
            names = [_name_of(image, number) for number, image in numbered]
            found = self._apply_to_some(given, names, bgr)
            return [self._finish(*one, visit) for one in zip(given, found)]

        def one_by_one() -> Iterator[Union[Result, ImageError]]:
            groups = _in_groups(enumerate(images), self._at_a_time)
            for results in self.backend.map(some, groups):
                yield from results

        return one_by_one()

    @staticmethod
    def _finish(
        given: AnyImageT,
        found: Union[Tuple[np.ndarray, Result], ImageError],
        visit: Optional[Callable[[AnyImageT, np.ndarray, Result], None]],
    ) -> Union[Result, ImageError]:
        """Name the image of a result, or of an error, and let ``visit`` see it."""
        try:
            if isinstance(found, ImageError):
                raise found
            image, result = found
            # Results are frozen for users; this one was made a moment ago.
            object.__setattr__(result, "source", given)
            if visit is not None:
                visit(given, image, result)
        except ImageError as error:
            error.source = given
            return error
        return result

    def _apply_to_some(
        self, images: Sequence[AnyImage], names: Sequence[str], bgr: bool
    ) -> List[Union[Tuple[np.ndarray, Result], ImageError]]:
        """Return each image as read with its result, or why it cannot be read; on one core."""
        found: List[Union[Tuple[np.ndarray, Result], ImageError]] = []
        for image, name in zip(images, names):
            try:
                with naming(name):
                    found.append(self._apply_to(image, bgr))
            except ImageError as error:
                found.append(error)
        return found

    def _apply_to(self, image: AnyImage, bgr: bool) -> Tuple[np.ndarray, Result]:
        """Return an image as read, and the result in pixels of the file."""
        read = as_rgb(image, bgr)
        return read, self.batch([read], shared=True)[0]

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        return {"model": self.contract.card_id, **self.backend.settings()}

    def close(self) -> None:
        """Free the runtime's resources; the model cannot be used after that."""
        self._closed = True
        self.backend.close()

    def __reduce__(self) -> Tuple[Any, ...]:
        """Pickle how the model was opened; its weights are read again where it arrives."""
        self._check_usable()
        if self._reopen is None:
            raise InputError(
                f"a {type(self).__name__} can be pickled only if facezoo.load opened it; open it "
                "in the other process"
            )
        return self._reopen, ()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


def _name_of(image: object, number: int) -> str:
    """Return what an image is called in errors: its path, or its position from 0."""
    return str(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"


def _in_groups(items: Iterable[Item], size: int) -> Iterator[List[Item]]:
    """Yield the items in lists of a size; the last may be shorter."""
    source = iter(items)
    while True:
        group = list(islice(source, size))
        if not group:
            return
        yield group


def _as_rgb_naming(image: Any, bgr: bool, number: int) -> np.ndarray:
    try:
        return as_rgb(image, bgr)
    except ImageError as error:
        raise ImageError(f"image {number} of the list: {error}") from error


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
