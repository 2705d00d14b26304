"""Checks of JSON values and of the numbers of flags against what each must be.

A document's table is a :class:`Kind` made of the functions below; :func:`check` names the first
field that is missing, unknown or not of its kind, what it is, and what was expected. The kind of a
number is also the type of a flag, so that one range is checked wherever the number comes from.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Tuple

from .errors import InputError

__all__ = [
    "BOOLEAN",
    "CARD_ID",
    "COSINE",
    "DEVICE_ID",
    "DEVICE_OR_PROVIDER",
    "LARGEST_SIDE",
    "NULL",
    "OBJECT",
    "RATE",
    "SEED",
    "SHA256",
    "SIDE",
    "STRING",
    "Kind",
    "Number",
    "check",
    "check_settings",
    "either",
    "mapping",
    "matching",
    "number",
    "one_of",
    "record",
    "sequence",
    "table",
    "text",
    "tuple_of",
    "whole",
]


def _nothing_inside(value: Any) -> Iterable[Tuple[str, Any, Kind]]:
    return ()


@dataclass(frozen=True)
class Kind:
    """What a JSON value must be.

    Attributes
    ----------
    expected
        Description, such as ``a whole number from 0 to 255``.
    accepts
        Whether a value is of this kind; its parts are not checked.
    parts
        Parts of an accepted value, each as the suffix of its name, the part, and its kind.
    """

    expected: str
    accepts: Callable[[Any], bool]
    parts: Callable[[Any], Iterable[Tuple[str, Any, Kind]]] = _nothing_inside


@dataclass(frozen=True)
class Number(Kind):
    """Kind of a number, and the type of a flag for ``argparse``.

    Attributes
    ----------
    parse
        Converts the text of a flag: ``int`` or ``float``.
    """

    parse: Callable[[str], Any] = float

    def __call__(self, given: str) -> Any:
        """Return the number that a flag's text gives.

        Raises
        ------
        argparse.ArgumentTypeError
            If it is not of this kind; ``argparse`` adds the flag's name.
        """
        try:
            value = self.parse(given)
        except ValueError:
            value = None
        if not self.accepts(value):
            # Imported here because only commands need it.
            from argparse import ArgumentTypeError

            raise ArgumentTypeError(f"is {_SHORT.repr(given)}; expected {self.expected}")
        return value


def check(value: Any, kind: Kind, name: str) -> None:
    """Check a value and everything inside it.

    Parameters
    ----------
    value
        As ``json.loads`` returns it.
    kind
        What it must be.
    name
        What errors call it.

    Raises
    ------
    ValueError
        If it is not of this kind; one line that names the field, its value and what was expected.
    """
    if not kind.accepts(value):
        raise ValueError(f"{name} is {_SHORT.repr(value)}; expected {kind.expected}")
    for suffix, part, inside in kind.parts(value):
        check(part, inside, name + suffix)


def check_settings(settings: Any, kinds: Optional[Mapping[str, Kind]] = None) -> None:
    """Check the numbers of a dataclass.

    Parameters
    ----------
    settings
        The dataclass. Each item of a tuple is checked; None is left out, which means that another
        default applies; numbers of NumPy count as numbers.
    kinds
        Field to kind; by default ``type`` in the metadata of each field.

    Raises
    ------
    InputError
        If one is not of its kind.
    """
    own = {field.name: field.metadata.get("type") for field in dataclasses.fields(settings)}
    for name, kind in (own if kinds is None else kinds).items():
        value = getattr(settings, name)
        if not isinstance(kind, Kind) or value is None:
            continue
        try:
            for one in value if isinstance(value, tuple) else (value,):
                check(one.item() if hasattr(one, "item") else one, kind, name)
        except ValueError as error:
            raise InputError(str(error)) from error


NULL = Kind("null", lambda value: value is None)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
STRING = Kind("a text", lambda value: isinstance(value, str))


def whole(low: int, high: int) -> Number:
    """Return the kind of a whole number from ``low`` to ``high``; ``true`` and 1.0 are not."""
    return Number(
        f"a whole number from {low} to {high}" if low < high else str(low),
        lambda value: type(value) is int and low <= value <= high,
        parse=int,
    )


def number(
    low: float, high: float, *, without_low: bool = False, without_high: bool = False
) -> Number:
    """Return the kind of a number from ``low`` to ``high``; NaN and ``true`` are not.

    With ``without_low`` or ``without_high`` that end itself is not accepted either.
    """
    expected = f"a number from {low:g} to {high:g}"
    if without_low or without_high:
        ends = ("above" if without_low else "at least", "below" if without_high else "at most")
        expected = f"a number {ends[0]} {low:g} and {ends[1]} {high:g}"

    def accepts(value: Any) -> bool:
        if type(value) not in (int, float) or not low <= value <= high:
            return False
        return not ((without_low and value == low) or (without_high and value == high))

    return Number(expected, accepts)


SEED = whole(0, 2**32 - 1)
DEVICE_ID = whole(0, 1023)
# Of commands that also have --provider, for which a word such as cuda is meant.
DEVICE_OR_PROVIDER = dataclasses.replace(
    DEVICE_ID, expected=f"{DEVICE_ID.expected}; a graphics card is chosen by --provider cuda"
)
LARGEST_SIDE = 16384  # of an image, in pixels
SIDE = whole(1, LARGEST_SIDE)
RATE = number(0, 1, without_low=True, without_high=True)
COSINE = number(-1, 1)


def text(longest: int) -> Kind:
    """Return the kind of a printable text of 1 to ``longest`` characters, on one line."""
    return Kind(
        f"a text of 1 to {longest} printable characters",
        lambda value: isinstance(value, str) and 0 < len(value) <= longest and value.isprintable(),
    )


def matching(pattern: str, expected: str) -> Kind:
    """Return the kind of a text that a regular expression matches as a whole."""
    compiled = re.compile(pattern)
    return Kind(expected, lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)))


def tuple_of(*kinds: Kind) -> Kind:
    """Return the kind of a list with a value of each of some kinds, in their order."""
    listed = ", ".join(kind.expected for kind in kinds)
    return Kind(
        f"a list of {len(kinds)}: {listed}",
        lambda value: isinstance(value, list) and len(value) == len(kinds),
        lambda value: ((f"[{index}]", *pair) for index, pair in enumerate(zip(value, kinds))),
    )


# It becomes part of file names and of generated code.
CARD_ID = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}",
    "a card's id, up to 100 letters, digits, dots, dashes and underscores",
)
SHA256 = matching("[0-9a-f]{64}", "a sha256, 64 hex digits in lower case")


def one_of(*words: str) -> Kind:
    """Return the kind of a text that is one of ``words``."""
    listed = ", ".join(map(repr, words))
    return Kind(
        f"one of {listed}" if len(words) > 1 else listed,
        lambda value: isinstance(value, str) and value in words,
    )


def sequence(kind: Kind, least: int, most: Optional[int] = None, *, distinct: bool = False) -> Kind:
    """Return the kind of a list of ``least`` to ``most`` (by default as many) values of a kind.

    With ``distinct`` no two may be equal, which is meant for short lists.
    """
    most = least if most is None else most
    count = str(least) if most == least else f"{least} to {most}"
    alike = ", no two alike" if distinct else ""

    def accepts(value: Any) -> bool:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return False
        return not distinct or all(value.count(item) == 1 for item in value)

    return Kind(
        f"a list of {count}, each {kind.expected}{alike}",
        accepts,
        lambda value: ((f"[{index}]", item, kind) for index, item in enumerate(value)),
    )


def mapping(kind: Kind, least: int, most: int) -> Kind:
    """Return the kind of an object of ``least`` to ``most`` values of a kind, under any names.

    A name has 1 to 200 printable characters.
    """
    name = text(200)

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and least <= len(value) <= most
            and all(map(name.accepts, value))
        )

    return Kind(
        f"an object of {least} to {most} values, each {kind.expected}, under printable names",
        accepts,
        lambda value: ((_suffix(name), item, kind) for name, item in value.items()),
    )


def either(*kinds: Kind) -> Kind:
    """Return the kind of a value of any of several kinds; the first that accepts it is used."""

    def accepting(value: Any) -> Optional[Kind]:
        return next((kind for kind in kinds if kind.accepts(value)), None)

    def parts(value: Any) -> Iterable[Tuple[str, Any, Kind]]:
        kind = accepting(value)
        return kind.parts(value) if kind else ()

    expected = " or ".join(kind.expected for kind in kinds)
    return Kind(expected, lambda value: accepting(value) is not None, parts)


def table(kind: Kind) -> Kind:
    """Return the kind of an object of values of a kind, any number under any names."""
    return Kind(
        f"an object, each value {kind.expected}",
        OBJECT.accepts,
        lambda value: ((_suffix(name), item, kind) for name, item in value.items()),
    )


def record(fields: Mapping[str, Kind], optional: Optional[Mapping[str, Kind]] = None) -> Kind:
    """Return the kind of an object with all ``fields``, perhaps ``optional`` ones, no others."""
    known = {**fields, **(optional or {})}
    listed = f", only {', '.join(known)}" if known else ""
    unknown = Kind(f"no such field{listed}", lambda value: False)

    def parts(value: Any) -> Iterator[Tuple[str, Any, Kind]]:
        for name in value:
            if name not in known:
                yield _suffix(name), value[name], unknown
        for name, kind in known.items():
            if name in fields or name in value:
                yield f".{name}", value.get(name, _MISSING), kind

    return Kind(OBJECT.expected, OBJECT.accepts, parts)


def _suffix(name: str) -> str:
    return f".{name}" if name.isidentifier() and len(name) <= 40 else f"[{_SHORT.repr(name)}]"


class _Missing:
    """Placeholder for a missing field; no kind accepts it."""

    def __repr__(self) -> str:
        return "missing"


_MISSING = _Missing()
# A value of a malicious file may be long or deep.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 6, 6
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 60, 40, 60
