"""Checks of JSON values against a table of what each field must be.

A document's table is a :class:`Kind` made of the functions below; :func:`check` names the first
field that is missing, unknown or not of its kind, what it is, and what was expected.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Tuple

__all__ = [
    "BOOLEAN",
    "NULL",
    "OBJECT",
    "STRING",
    "Kind",
    "check",
    "either",
    "mapping",
    "matching",
    "number",
    "one_of",
    "record",
    "sequence",
    "text",
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


NULL = Kind("null", lambda value: value is None)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
STRING = Kind("a text", lambda value: isinstance(value, str))


def whole(low: int, high: int) -> Kind:
    """Return the kind of a whole number from ``low`` to ``high``; ``true`` and 1.0 are not."""
    return Kind(
        f"a whole number from {low} to {high}" if low < high else str(low),
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Kind:
    """Return the kind of a number from ``low`` to ``high``; NaN and ``true`` are not."""
    return Kind(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


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


def either(*kinds: Kind) -> Kind:
    """Return the kind of a value of any of several kinds; the first that accepts it is used."""

    def accepting(value: Any) -> Optional[Kind]:
        return next((kind for kind in kinds if kind.accepts(value)), None)

    def parts(value: Any) -> Iterable[Tuple[str, Any, Kind]]:
        kind = accepting(value)
        return kind.parts(value) if kind else ()

    expected = " or ".join(kind.expected for kind in kinds)
    return Kind(expected, lambda value: accepting(value) is not None, parts)


def mapping(kind: Kind) -> Kind:
    """Return the kind of an object with any names, whose values are all of a kind."""
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
