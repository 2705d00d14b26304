"""HTML reports in one file: images, sortable tables, curves, settings."""

from __future__ import annotations

import base64
import html
import json
import math
import platform
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import quote

import numpy as np

from .. import __version__
from ..backends import HOSTS
from ..files import finite
from ..machine import describe_machine
from ..written import writing

__all__ = [
    "LONGEST_SIDE",
    "Curves",
    "Facts",
    "Linked",
    "Pictures",
    "Section",
    "Table",
    "versions",
    "write_html_report",
]


LONGEST_SIDE = 560  # of an image in the report, in pixels
JPEG_QUALITY = 80
# Colours of Okabe and Ito, and dashes, as in plots.py.
STYLES = (("#0072B2", ""), ("#E69F00", "7 4"), ("#009E73", "2 3"), ("#CC79A7", "9 3 2 3"))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 340, 56, 14, 14, 44


@dataclass(frozen=True)
class Table:
    """A table that is sorted by a click on a heading; None becomes an empty cell.

    Its rows are read once, and not held in memory.
    """

    title: str
    headings: Sequence[str]
    rows: Iterable[Sequence[Any]]


@dataclass(frozen=True)
class Facts:
    """Names and values; nested mappings are shown as JSON."""

    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Curves:
    """Lines in one plot.

    Attributes
    ----------
    title, x_label, y_label
        Texts of the plot.
    lines
        Name in the legend to x and y, each (K,).
    limits
        Left, right, bottom, top of the plot; those of the lines if None.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Tuple[np.ndarray, np.ndarray]]
    limits: Optional[Tuple[float, float, float, float]] = None


@dataclass(frozen=True)
class Pictures:
    """Images with captions; they are shrunk and embedded in the report."""

    title: str
    images_rgb: Sequence[np.ndarray]
    captions: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class Linked:
    """Images in files beside the report, with captions; they are loaded when they are looked at.

    Attributes
    ----------
    title, note
        Texts above the images.
    files
        Paths relative to the report, with forward slashes.
    captions
        One per image.
    """

    title: str
    files: Sequence[str]
    captions: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A paragraph."""

    title: str
    text: str


Part = Union[Table, Facts, Curves, Pictures, Linked, Section]


def versions() -> Dict[str, Any]:
    """Return the versions of facezoo, Python and packages, and the processor."""
    found: Dict[str, Any] = {"facezoo": __version__, "python": platform.python_version()}
    for name in ("numpy", "opencv-python-headless", *(host.package for host in HOSTS.values())):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = describe_machine()
    return {**found, **machine, "instruction_sets": ", ".join(machine["instruction_sets"])}


def write_html_report(path: Path, title: str, parts: Sequence[Part]) -> None:
    """Write an HTML report.

    Parameters
    ----------
    path
        The .html file.
    title
        Heading of the page.
    parts
        Content in order.
    """
    # Split first: a title, such as the name of a folder, may contain the placeholder.
    head, foot = _PAGE.split("BODY")
    shown = chain.from_iterable(map(_show, parts))
    with writing(Path(path)) as file:
        for text in chain([head.replace("TITLE", html.escape(title))], shown, [foot]):
            file.write(text.encode("utf-8", "backslashreplace"))


def _show(part: Part) -> Iterator[str]:
    yield f"<h2>{html.escape(part.title)}</h2>"
    if isinstance(part, Table):
        yield from _table(part)
    elif isinstance(part, Facts):
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{_value(value)}</td></tr>"
            for name, value in part.values.items()
        )
        yield f'<table class="facts">{rows}</table>'
    elif isinstance(part, Curves):
        yield _plot(part)
    elif isinstance(part, Pictures):
        yield from _figures(part, map(_embedded, part.images_rgb))
    elif isinstance(part, Linked):
        yield from _figures(part, map(quote, part.files))
    else:
        yield f"<p>{html.escape(part.text)}</p>"
    yield "\n"


def _value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"<pre>{html.escape(json.dumps(finite(value), indent=1, allow_nan=False))}</pre>"
    return html.escape(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(table: Table) -> Iterator[str]:
    head = "".join(
        f'<th scope="col" tabindex="0">{html.escape(heading)}</th>' for heading in table.headings
    )
    yield f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
    for row in table.rows:
        cells = "".join(
            f"<td{_number_class(value)}>{html.escape(_text(value))}</td>" for value in row
        )
        yield f"<tr>{cells}</tr>\n"
    yield "</tbody></table></div>"


def _number_class(value: Any) -> str:
    return ' class="n"' if isinstance(value, (int, float)) else ""


def _figures(part: Union[Pictures, Linked], sources: Iterable[str]) -> Iterator[str]:
    if part.note:
        yield f"<p>{html.escape(part.note)}</p>"
    yield '<div class="pictures">'
    for source, caption in zip(sources, part.captions):
        text = html.escape(caption)
        yield f'<figure><img alt="{text}" loading="lazy" src="{source}">'
        yield f"<figcaption>{text}</figcaption></figure>"
    yield "</div>"


def _embedded(image_rgb: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(image_rgb)).decode("ascii")


def _jpeg(image_rgb: np.ndarray) -> bytes:
    import cv2

    scale = min(1.0, LONGEST_SIDE / max(image_rgb.shape[:2]))
    if scale < 1.0:
        size = [max(1, round(side * scale)) for side in image_rgb.shape[1::-1]]
        image_rgb = cv2.resize(image_rgb, (size[0], size[1]), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    encoded: np.ndarray = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return encoded.tobytes()


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels of the plot."""

    limits: Tuple[float, float, float, float]

    def x(self, value: float) -> float:
        low, high = self.limits[:2]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.limits[2:]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _limits(curves: Curves) -> Tuple[float, float, float, float]:
    if curves.limits is not None:
        return curves.limits
    x = np.concatenate([np.asarray(line[0], float) for line in curves.lines.values()])
    y = np.concatenate([np.asarray(line[1], float) for line in curves.lines.values()])
    left, right, low, high = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    return left, right if right > left else left + 1, low, high if high > low else low + 1


def _round_values(low: float, high: float) -> List[float]:
    """Return three to nine multiples of 1, 2 or 5 times a power of ten, for the grid."""
    least = (high - low) / 8
    if not 1e-300 < least < math.inf:
        return []  # No grid is possible, for example with NaN.
    power = 10.0 ** math.floor(math.log10(least))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    slack = 1e-9 * (high - low) / step
    first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    return [step * number for number in range(first, last + 1)]


def _plot(curves: Curves) -> str:
    scale = _Scale(_limits(curves))
    label = html.escape(curves.title)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    left, right, low, high = scale.limits
    for x in _round_values(left, right):
        parts.append(
            f'<line class="grid" x1="{scale.x(x):.1f}" x2="{scale.x(x):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/><text x="{scale.x(x):.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{x:.3g}</text>'
        )
    for y in _round_values(low, high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(y):.1f}" '
            f'y2="{scale.y(y):.1f}"/><text x="{LEFT - 6}" y="{scale.y(y) + 4:.1f}" '
            f'text-anchor="end">{y:.3g}</text>'
        )
    for (xs, ys), (color, dashes) in zip(curves.lines.values(), STYLES * len(curves.lines)):
        line = _thinned(np.asarray(xs), np.asarray(ys))
        points = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" stroke="{color}" stroke-dasharray="{dashes}"/>')
    middle = f'x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle"'
    parts.append(f"<text {middle}>{html.escape(curves.x_label)}</text>")
    turned = f'transform="translate(13 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{html.escape(curves.y_label)}</text></svg>")
    legend = "".join(
        f'<li><svg viewBox="0 0 34 8"><polyline points="0,4 34,4" stroke="{color}" '
        f'stroke-dasharray="{dashes}"/></svg>{html.escape(name)}</li>'
        for name, (color, dashes) in zip(curves.lines, STYLES * len(curves.lines))
    )
    return f'<div class="plot">{"".join(parts)}<ul class="legend">{legend}</ul></div>'


def _thinned(xs: np.ndarray, ys: np.ndarray) -> List[Tuple[float, float]]:
    """Thin out points to the resolution of a plot, keeping both ends."""
    keep = np.unique(np.linspace(0, len(xs) - 1, min(600, len(xs))).astype(int))
    return [(float(x), float(y)) for x, y in zip(xs[keep], ys[keep])]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --line: #8884; --head: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 16px; }
h1 { font-size: 24px; } h2 { font-size: 18px; margin-top: 32px; }
table { border-collapse: collapse; font-size: 13px; }
th, td { border: 1px solid var(--line); padding: 3px 8px; text-align: left; vertical-align: top; }
thead th { background: var(--head); cursor: pointer; white-space: nowrap; }
th[aria-sort=ascending]::after { content: " \\25B2"; }
th[aria-sort=descending]::after { content: " \\25BC"; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { margin: 0; max-height: 220px; overflow: auto; white-space: pre-wrap; }
.scroll { max-height: 520px; overflow: auto; }
.pictures { display: grid; gap: 12px; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
figure { margin: 0; } figcaption { font-size: 12px; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; }
.plot > svg { max-width: 640px; width: 100%; } polyline { fill: none; stroke-width: 2; }
text { font-size: 12px; fill: currentColor; } .grid { stroke: var(--line); }
.legend { list-style: none; margin: 4px 0; padding: 0; }
.legend svg { width: 34px; margin-right: 8px; }
</style>
</head>
<body>
<h1>TITLE</h1>
BODY
<script>
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const key = row => row.cells[column].textContent;
      const empty = row => key(row) === "";
      rows.sort((a, b) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        const [x, y] = [Number(key(a)), Number(key(b))];
        const order = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
</script>
</body>
</html>
"""
