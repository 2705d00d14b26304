"""Outputs of vamp: written with an index, and matched with their images.

``vamp.json`` contains the network's contract and the hash of every file, so that a decoder notices
missing, extra, stale, changed or swapped files. The vendor's vamp writes no such index; then only
what is visible without it is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np

from ..arrays import load_json, read_npz
from ..card import ModelCard
from ..contract import METADATA_KEY, Contract
from ..errors import ConfigError, InputError
from ..fields import OBJECT, SHA256, check, either, mapping, one_of, record, sequence, text
from ..files import sha256_of
from ..image.resize import placement_of
from ..results import RawOutputs
from .npz import Picture, read_datalist

__all__ = ["INDEX_FILE", "INDEX_SCHEMA", "OutputFolder", "index_head", "output_name"]

INDEX_FILE, INDEX_SCHEMA = "vamp.json", "facezoo.vamp/1"

# Engine and device are for people to read; a device's network has a hash for each of its files.
_SETTINGS = {
    "engine": text(200),
    "engine_version": text(200),
    "device": text(200),
    "model_sha256": either(SHA256, mapping(SHA256, 1, 16)),
}
_OUTPUT = record({"path": text(40), "sha256": SHA256})
_INDEX = record(
    {
        "schema": one_of(INDEX_SCHEMA),
        "contract": OBJECT,  # its fields: Contract.from_json
        "dtype": one_of("float16", "float32"),
        "datalist_sha256": SHA256,
        "outputs": sequence(_OUTPUT, 0, 10_000_000),
    },
    _SETTINGS,
)

# Files beside the outputs in a folder of ours.
_OTHER_FILES = (INDEX_FILE, "run.json", ".files.jsonl")
_JOURNAL_FILES = (".lock", ".items.jsonl")


def output_name(index: int) -> str:
    """Return the vendor's name of an output file.

    Examples
    --------
    >>> output_name(12)
    'output_000012.npz'
    """
    return f"output_{index:06d}.npz"


def index_head(
    contract: Contract, dtype: str, datalist: Path, settings: Mapping[str, Any]
) -> Dict[str, Any]:
    """Return the content of ``vamp.json`` without the list of outputs.

    Parameters
    ----------
    contract
        Contract of the network, with the pre-processing that was used.
    dtype
        Type of the outputs.
    datalist
        Their datalist; its sha256 is recorded.
    settings
        Settings of the backend: engine, version and hash of the model file, where it has them.
    """
    return {
        "contract": json.loads(contract.to_metadata()[METADATA_KEY]),
        "dtype": dtype,
        "datalist_sha256": sha256_of(datalist),
        **{key: value for key, value in settings.items() if key != "preprocess"},
    }


class OutputFolder:
    """A folder of ``output_%06d.npz``, checked against its datalist.

    Parameters
    ----------
    folder
        Output folder of vamp, ours or the vendor's.
    datalist
        The input list of that run.

    Attributes
    ----------
    contract
        Contract of the network, with the pre-processing that was used; None for a folder of the
        vendor's vamp, which does not record it.

    Raises
    ------
    InputError
        If a file is missing or extra, or the folder belongs to another list.
    """

    def __init__(self, folder: Path, datalist: Path) -> None:
        self.folder = Path(folder)
        self.paths = [self.folder / output_name(i) for i in range(len(read_datalist(datalist)))]
        self.contract: Optional[Contract] = None
        self._sha256: Tuple[str, ...] = ()
        self._check_names(datalist)
        if (self.folder / INDEX_FILE).exists():
            self._read_index(datalist)
        self._shapes = [array.shape for array in self._read(0)]

    def __len__(self) -> int:
        return len(self.paths)

    def _check_names(self, datalist: Path) -> None:
        if not self.folder.is_dir():
            raise InputError(
                f"{str(self.folder)!r} is not a folder; expected the --path_output of vamp"
            )
        have = {entry.name for entry in self.folder.iterdir()}
        if have.intersection(_JOURNAL_FILES):
            raise InputError(
                f"{str(self.folder)!r} is unfinished; run the same vamp command again and let it "
                "end"
            )
        wanted = [path.name for path in self.paths]
        missing = [name for name in wanted if name not in have]
        if missing:
            raise InputError(
                f"{str(self.folder / missing[0])!r} is missing ({len(missing)} of "
                f"{len(wanted)}); run vamp again on {str(datalist)!r}"
            )
        extra = sorted(have.difference(wanted, _OTHER_FILES))
        if extra:
            raise InputError(
                f"{str(self.folder / extra[0])!r} belongs to no line of {str(datalist)!r}, which "
                f"has {len(wanted)}; if the outputs belong to another list, run vamp again into "
                "an empty folder"
            )

    def _read_index(self, datalist: Path) -> None:
        file = self.folder / INDEX_FILE
        index = load_json(file, INDEX_SCHEMA)
        try:
            check(index, _INDEX, INDEX_FILE)
            self.contract = Contract.from_json(index["contract"])
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{str(file)!r} does not match the folder ({error}); run vamp again"
            ) from error
        names = [item["path"] for item in index["outputs"]]
        if index["datalist_sha256"] != sha256_of(datalist) or names != [p.name for p in self.paths]:
            raise InputError(
                f"{str(self.folder)!r} belongs to another list than {str(datalist)!r}, or the "
                "list has changed since; run vamp again"
            )
        self._sha256 = tuple(item["sha256"] for item in index["outputs"])

    def arrays(self, index: int) -> List[np.ndarray]:
        """Read the outputs of one line.

        Parameters
        ----------
        index
            Line of the datalist, from 0.

        Returns
        -------
        list of numpy.ndarray
            Arrays (1, ...), in the order of the keys ``output_0``, ``output_1``, ...

        Raises
        ------
        InputError
            If the file is damaged, belongs to another line or run, or its arrays differ in shape
            from those of the first line.
        """
        arrays = self._read(index)
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            raise InputError(
                f"{str(self.paths[index])!r} has outputs {shapes}, the first file has "
                f"{self._shapes}, so they are from two runs; run vamp again into an empty folder"
            )
        return arrays

    def _read(self, index: int) -> List[np.ndarray]:
        path = self.paths[index]
        if self._sha256:
            self._check_recorded(index)
        found = read_npz(path)
        keys = [f"output_{number}" for number in range(len(found))]
        if not keys or set(keys) != set(found):
            raise InputError(
                f"{str(path)!r} contains {list(found)}; expected output_0, output_1, ..."
            )
        for key, array in found.items():
            if array.shape[:1] != (1,) or array.dtype.kind != "f":
                raise InputError(
                    f"{str(path)!r}: {key} is {array.dtype} {array.shape}; expected floats with a "
                    "first axis of 1"
                )
        return [found[key] for key in keys]

    def _check_recorded(self, index: int) -> None:
        path = self.paths[index]
        sha256 = sha256_of(path)
        if sha256 == self._sha256[index]:
            return
        if sha256 in self._sha256:
            real = self.paths[self._sha256.index(sha256)].name
            raise InputError(
                f"{str(path)!r} has the content that {INDEX_FILE} records for {real}: files were "
                "renamed or swapped; run vamp again"
            )
        raise InputError(
            f"{str(path)!r} is not the file recorded in {INDEX_FILE} (its sha256 differs): it is "
            "stale, truncated or changed; run vamp again"
        )

    def contract_for(
        self, cards: Iterable[ModelCard], input_hw: Optional[Tuple[int, int]] = None
    ) -> Contract:
        """Return the contract for decoding the outputs.

        Parameters
        ----------
        cards
            Cards of the decoder's model; the last matching one wins.
        input_hw
            Height and width of the network's input, in pixels.

        Returns
        -------
        Contract
            The contract recorded by vamp; for outputs of the vendor's vamp that of a card with as
            many outputs, at ``input_hw`` or else the size of the card.

        Raises
        ------
        InputError
            If the outputs do not belong to such a model at that size.
        """
        card_of = {len(card.outputs): card for card in cards}
        expected = " or ".join(sorted({card.model for card in card_of.values()}))
        noted = self.contract
        if noted is None:
            count = len(self._shapes)
            if count not in card_of:
                raise InputError(
                    f"{str(self.folder)!r} has {count} outputs per image; expected {expected} with "
                    f"{' or '.join(map(str, card_of))}"
                )
            return Contract.from_card(card_of[count], input_hw=input_hw)
        size = noted.preprocess.input_hw
        if noted.model != expected or input_hw not in (None, size):
            raise InputError(
                f"{str(self.folder)!r} was made by {noted.card_id} at height {size[0]}, width "
                f"{size[1]}; expected {expected}" + (f" at {input_hw}" if input_hw else "")
            )
        return noted

    def raw_outputs(self, picture: Picture, contract: Contract) -> RawOutputs:
        """Read the outputs of an image in the form of a backend's result.

        Parameters
        ----------
        picture
            An image with a line.
        contract
            Of the network, with the pre-processing that was done.

        Returns
        -------
        RawOutputs
            Arrays (1, ...), float32.

        Raises
        ------
        InputError
            As for :meth:`arrays`, or if the number of outputs differs from the number of names.
        """
        arrays, names = self.arrays(picture.line), contract.output_names
        if len(arrays) != len(names):
            raise InputError(
                f"{str(self.paths[picture.line])!r} has {len(arrays)} outputs; expected "
                f"{len(names)}: {' '.join(names)}"
            )
        named = {name: array.astype(np.float32) for name, array in zip(names, arrays)}
        try:
            placement = placement_of(picture.image_hw, contract.preprocess)
        except ConfigError as error:
            raise InputError(f"{picture.name!r}: {error}") from error
        return RawOutputs(named, (placement,))
