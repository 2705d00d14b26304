"""Formatting of numbers and Markdown tables."""

from __future__ import annotations

__all__ = [
    "EMPTY",
    "Say",
    "as_printed",
    "joined",
    "markdown_table",
    "merged",
    "number_text",
]

from typing import Callable, Iterable, List, Sequence, TypeVar

EMPTY = "–"

Say = Callable[[str], str]
Value = TypeVar("Value")


def number_text(value: float) -> str:
    """Format a number with two decimals."""
    return f"{value:.2f}"


def as_printed(value: float) -> str:
    """Format a published number with its own digits, two or three decimals."""
    return max(number_text(value), f"{round(value, 3)}", key=len)


def joined(values: Iterable[str], separator: str = ", ") -> str:
    """Join the distinct values."""
    return separator.join(dict.fromkeys(filter(None, values))) or EMPTY


def merged(lists: Iterable[Iterable[Value]]) -> List[Value]:
    """Return the distinct values of several lists, in order of first occurrence."""
    return list(dict.fromkeys(name for names in lists for name in names))


def markdown_table(
    header: Iterable[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """Format a Markdown table; ``numbers`` are the right-aligned columns."""
    heads = list(header)
    rule = ["--:" if column in numbers else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))
