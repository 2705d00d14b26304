"""Decode outputs of vamp to results, image by image, as a model's stream returns them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, TypeVar, Union

from ..arrays import load_json
from ..backends.base import naming
from ..card import ModelCard
from ..contract import Contract
from ..errors import ImageError
from ..files import sha256_of
from ..machine import usable_cores
from ..models.scrfd.decode import PROFILES
from ..results import RawOutputs
from ..runs import Inputs
from ..vacc.npz import Picture, read_pictures
from ..vacc.outputs import OutputFolder
from ..workers import map_in_order

__all__ = ["ListedOutputs", "describe_untried"]

Result = TypeVar("Result")


class ListedOutputs:
    """The images of a datalist and the outputs of vamp for them.

    Parameters
    ----------
    datalist
        The input list of vamp.
    folder
        Output folder of vamp.
    cards
        Cards of the decoder's model, see :meth:`facezoo.vacc.outputs.OutputFolder.contract_for`.
    image_dir
        Folder of the images; needed for a list that the vendor's script made.
    input_hw
        Height and width of the network's input in pixels; None if any fits.

    Attributes
    ----------
    pictures, names
        The images of the data set and their names, (N,).
    contract
        Contract of the network that made the outputs.

    Raises
    ------
    InputError
        If the outputs do not fit the list or the model.
    """

    def __init__(
        self,
        datalist: Path,
        folder: Path,
        cards: Iterable[ModelCard],
        image_dir: Optional[Path] = None,
        input_hw: Optional[Sequence[int]] = None,
    ) -> None:
        self.pictures = read_pictures(datalist, image_dir)
        self.names = [picture.name for picture in self.pictures]
        self._outputs = OutputFolder(folder, datalist)
        size = (input_hw[0], input_hw[1]) if input_hw else None
        self.contract = self._outputs.contract_for(cards, size)
        self._datalist = datalist
        self._others = (datalist, folder, image_dir)

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results besides the settings of the decoder; JSON values."""
        return {
            "contract": dataclasses.asdict(self.contract),
            "datalist_sha256": sha256_of(self._datalist),
        }

    def inputs(self, *others: Optional[Path]) -> Inputs:
        """Return the inputs of a run that decodes them, and other files it reads."""
        paths = self._outputs.paths
        return Inputs(paths, [path.name for path in paths], *self._others, *others)

    def stream(
        self,
        pictures: Iterable[Picture],
        decode: Callable[[RawOutputs], Result],
        visit: Optional[Callable[[str, Result], None]] = None,
    ) -> Iterator[Union[Result, ImageError]]:
        """Decode the outputs of many images.

        Parameters
        ----------
        pictures
            Some of :attr:`pictures`.
        decode
            Called with the raw outputs of one image, arrays (1, ...), in a worker.
        visit
            Called with name and result, in a worker; to write a file, for instance.

        Yields
        ------
        Result or ImageError
            In the order given; the error if the image could not be read for vamp, or the file
            not be written.

        Raises
        ------
        InputError, DecodeError
            If outputs are damaged or cannot be decoded; names the file or the image.
        """

        def one(picture: Picture) -> Union[Result, ImageError]:
            if picture.error:
                return ImageError(f"{picture.name!r} {picture.error}")
            raw = self._outputs.raw_outputs(picture, self.contract)
            with naming(picture.name):
                result = decode(raw)
            try:
                if visit is not None:
                    visit(picture.name, result)
            except ImageError as error:
                return error
            return result

        return map_in_order(one, pictures, usable_cores())


def describe_untried(
    results: Path, schema: str, contract: Contract, profile: str = "demo"
) -> Optional[str]:
    """Say how many photos have no face here, and may have one in the runner's results.

    The runner tries a photo without a face again with a border, since SCRFD misses faces that fill
    a photo. That needs the network, which a decoder of recorded outputs does not have.

    Parameters
    ----------
    results
        File of decoded results.
    schema
        Its schema.
    contract
        Contract of the network.
    profile
        Name of the detection profile.

    Returns
    -------
    str or None
        None if the runner would find the same.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    border = PROFILES[profile].retry_border if contract.model == "scrfd" else 0.0
    entries = load_json(results, schema)["images"] if border else []
    untried = [entry["path"] for entry in entries if entry.get("faces") == []]
    if not untried:
        return None
    return (
        f"{len(untried)} of {len(entries)} photos have no face here, such as {untried[0]!r}; the "
        f"runner tries such photos again with a border of {border:.0%} in the profile {profile!r}, "
        "which needs the network: to find faces that fill a photo, run scrfd_vsx.py on them; to "
        "get the same results from both, give it --retry_border 0"
    )
