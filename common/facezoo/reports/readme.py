"""README tables, rendered from the cards, numerics.json and recorded output.

A page marks the place of a block; the text between the two comments is generated::

    <!-- facezoo:begin accuracy scrfd -->
    <!-- facezoo:end -->

The words after ``begin`` are the name of the block, its argument and, on a Chinese page, ``zh``:

================== =============================================================================
``models``         one row per model: task, paper, licences
``models TASK``    one row per model of a task, with the first sentence of its page
``measured``       one row per model: measured numbers of each build, or why there are none
``status``         one row per model: available parts, numbers of a device
``facts MODEL``    source, input, outputs, pre-processing
``variants MODEL`` one row per variant, with the published numbers
``weights MODEL``  one row per downloadable file, with its licence
``accuracy MODEL`` published and measured numbers, from the recipe's numerics.json
``ledger MODEL``   cost of each deviation from the protocol, or of each choice, from ledger.json
``speed``          ratios against peers and against the machine, from the benchmarks' results
``versions``       Python and packages that the tests were run with, and the outcome
``builds``         time of each build, and which one to choose, by machine
``benchmark NAME`` the text that a benchmark wrote, by machine
``file PATH``      a file of the repository, such as a recorded console text
================== =============================================================================
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ..card import GATE_LIMITS, ModelCard, Preprocess, Reference, WeightFile
from ..errors import UNREADABLE, InputError
from ..models import CARDS, MODELS, WEIGHTS, has_part
from .chinese import CHINESE
from .numerics import (
    BUILDS,
    COUNTS_FILE,
    NUMERICS_FILE,
    Measurement,
    Metric,
    read_counts,
    read_numerics,
)
from .recognition_ledger import RECOGNITION_LEDGER_SCHEMA, render_recognition_ledger
from .speed import benchmark_text, builds_table, install_table, speed_tables
from .tables import EMPTY, Say, as_printed, joined, markdown_table, merged, number_text
from .versions import versions_table

__all__ = [
    "render_block",
    "render_blocks",
    "render_landmark_ledger",
    "render_ledger",
]


LEDGER_FILE = "ledger.json"
LEDGER_SCHEMA = "facezoo.ledger/1"
LANDMARK_LEDGER_SCHEMA = "facezoo.landmark_ledger/1"

DEVICE_ENGINE = "vsx"

_BEGIN = re.compile(r"<!-- facezoo:begin (?P<words>\S.*?) -->")
_END = "<!-- facezoo:end -->"


def render_blocks(text: str, render: Callable[[Sequence[str]], str]) -> str:
    """Fill every block of a page.

    Parameters
    ----------
    text
        Markdown.
    render
        Maps the words of a block, such as ``["accuracy", "scrfd"]``, to its Markdown.

    Returns
    -------
    str
        The page with the text between the comments replaced.

    Raises
    ------
    InputError
        If a begin or end comment is missing; names the line.
    """
    lines: List[str] = []
    opened = 0
    for number, line in enumerate(text.splitlines(), start=1):
        begin = _BEGIN.fullmatch(line)
        if (begin is not None) == (opened > 0) and (begin or line == _END):
            raise InputError(f"line {number}, {line!r}, has no matching comment")
        if begin:
            lines += [line, render(begin["words"].split())]
            opened = number
        elif line == _END:
            lines.append(line)
            opened = 0
        elif not opened:
            lines.append(line)
    if opened:
        raise InputError(f"the block in line {opened} has no {_END!r}")
    return "\n".join(lines) + "\n"


def render_block(root: Path, words: Sequence[str]) -> str:
    """Render one block.

    Parameters
    ----------
    root
        Folder of the repository.
    words
        Name, argument, language; see the module.

    Returns
    -------
    str
        Markdown without a final newline.

    Raises
    ------
    InputError
        If the block, model or file does not exist.
    """
    chinese = words[-1] == "zh"
    name, *arguments = words[:-1] if chinese else words
    say: Say = (lambda word: CHINESE.get(word, word)) if chinese else str
    if name in _OF_ZOO and not arguments:
        return _OF_ZOO[name](root, say)
    if name in _OF_MODEL and len(arguments) == 1 and arguments[0] in MODELS:
        return _OF_MODEL[name](root, arguments[0], say)
    if name == "models" and len(arguments) == 1 and arguments[0] in GATE_LIMITS:
        return _models_of(root, arguments[0], say)
    if name == "file" and len(arguments) == 1:
        return _file(root / arguments[0])
    if name == "benchmark" and len(arguments) == 1:
        return benchmark_text(root, arguments[0], say)
    known = [*_OF_ZOO, "models TASK", *(f"{one} MODEL" for one in _OF_MODEL)]
    known += ["benchmark NAME", "file PATH"]
    raise InputError(f"block {' '.join(words)!r} is not known; expected {', '.join(known)}")


def _models(root: Path, say: Say) -> str:
    header = ("Model", "Task", "Variants", "Paper", "Licence of the code", "Licence of the weights")
    rows = []
    for model in MODELS:
        cards = _cards(model)
        rows.append(
            [
                _page_link(root, model, say),
                say(_folder(root, model).parent.name),
                str(len(cards) or EMPTY),
                joined(_paper_link(card) for card in cards),
                joined(card.upstream.code_licence for card in cards),
                joined((file.licence for file in _files(model)), "; "),
            ]
        )
    return markdown_table(map(say, header), rows, numbers=(2,))


def _models_of(root: Path, task: str, say: Say) -> str:
    """List a task's recipes by title, each with the first sentence of its page."""
    name = _page_name(say)
    rows = []
    for path in sorted(root.glob(f"{task}/*/{name}")):
        title, _, text = path.read_text(encoding="utf-8").lstrip("# ").partition("\n\n")
        lines = text.split("\n\n")[0].splitlines()
        # Chinese has no spaces between words, so none where a line ends.
        sentence = re.split(r"(?<=\.)\s|(?<=。)", ("" if "zh" in name else " ").join(lines))[0]
        rows.append((f"[{title}]({path.parent.name}/{name})", sentence.rstrip(".。")))
    return markdown_table(map(say, ("Model", "What it does")), rows)


def _status(root: Path, say: Say) -> str:
    header = ["Model", "Recipe", "Weights", "Export", "on a device"]
    rows = []
    for model in MODELS:
        folder = _folder(root, model)
        results = _leading(read_numerics(folder / NUMERICS_FILE))
        fetched = [file for file in _files(model) if file.sources]
        by_hand = len(_files(model)) - len(fetched)
        exported = has_part(model, "graph") or has_part(model, "checkpoint")
        on_card = [one for one in results if one.engine.startswith(DEVICE_ENGINE)]
        rows.append(
            [
                _page_link(root, model, say),
                say("yes" if (folder / "README.md").exists() else "in progress"),
                f"{len(fetched)} {say('fetched')}, {by_hand} {say('by hand')}",
                say("yes" if exported else "in progress"),
                _headline(on_card) or say("no device available"),
            ]
        )
    return markdown_table(map(say, header), rows)


def _measured(root: Path, say: Say) -> str:
    header = ["Model", "Measured", "Metric", *BUILDS]
    rows = []
    for model in MODELS:
        results = _leading(read_numerics(_folder(root, model) / NUMERICS_FILE))
        on_host = [one for one in results if not one.engine.startswith(DEVICE_ENGINE)]
        by_build = {build: [one for one in on_host if one.build == build] for build in BUILDS}
        rows.append(
            [
                _page_link(root, model, say),
                *(
                    _subject(results[0])
                    if results
                    else (say("no weights or data available"), EMPTY)
                ),
                *(_headline(by_build[build]) or say("not measured") for build in BUILDS),
            ]
        )
    return markdown_table(map(say, header), rows)


def _leading(results: Sequence[Measurement]) -> List[Measurement]:
    """Return the results of one data set: the first with a published number, else the first."""
    published = [one for one in results if _published(CARDS[one.card], one.dataset)]
    return [one for one in results if one.dataset == (published[:1] or results[:1])[0].dataset]


def _subject(result: Measurement) -> Tuple[str, str]:
    """Describe the numbers of a row: variant and data set; metrics with unit."""
    names = " / ".join(result.metrics)
    units = joined(metric.unit for metric in result.metrics.values())
    return f"{result.card}, {result.dataset}", f"{names}, {units}"


def _headline(results: Sequence[Measurement]) -> str:
    """Format the first result, which is the most important one of a recipe."""
    return " / ".join(number_text(m.value) for one in results[:1] for m in one.metrics.values())


def _facts(root: Path, model: str, say: Say) -> str:
    card = max(_cards(model), key=lambda one: len(one.outputs))
    height, width = card.preprocess.input_hw
    meanings: Dict[str, List[str]] = {}
    for output in card.outputs:
        meanings.setdefault(output.meaning, []).append(f"`{output.name}`")
    outputs = "<br>".join(f"{' '.join(names)}: {what}" for what, names in meanings.items())
    source = f"[{card.upstream.commit[:7]}]({card.upstream.repository})"
    rows = [
        ("Source", joined((source, _paper_link(card)))),
        ("Input", f"`{card.input_name}`, B x 3 x {height} x {width}, float32"),
        ("Outputs", outputs),
        ("Pre-processing", _describe(card.preprocess)),
        ("Licence of the code", card.upstream.code_licence),
        ("Licence of the weights", joined((file.licence for file in _files(model)), "; ")),
    ]
    return markdown_table(map(say, ("Fact", "Value")), [(say(fact), value) for fact, value in rows])


def _describe(preprocess: Preprocess) -> str:
    height, width = preprocess.input_hw
    how = [f"{preprocess.fit} to {width}x{height} ({preprocess.resize})"]
    if preprocess.fit == "letterbox":
        pad = ", ".join(map(str, preprocess.pad_value))
        how.append(f"image at the {preprocess.anchor}, padded with ({pad})")
    how.append("BGR" if preprocess.swaps_channels else "RGB")
    formula = {"EQUAL": "x", "DIV255": "x / 255", "DIV1275_MINUSONE": "x / 127.5 - 1"}
    pixel = "x / 255" if preprocess.norm.startswith("DIV255") else "x"
    mean, std = (joined(f"{v:g}" for v in values) for values in (preprocess.mean, preprocess.std))
    how.append(formula.get(preprocess.norm, f"({pixel} - {mean}) / {std}"))
    return "; ".join(how)


def _variants(root: Path, model: str, say: Say) -> str:
    cards, folder = _cards(model), _folder(root, model)
    printed = [ref for card in cards for ref in _first_printed(card)]
    datasets = joined(ref.dataset for ref in printed)

    def column(ref: Reference) -> str:
        name = f"{ref.metric}, {ref.unit}"
        return name if ref.dataset == datasets else f"{ref.dataset}: {name}"

    columns = list(dict.fromkeys(map(column, printed)))
    counts = read_counts(folder / COUNTS_FILE)
    rows = []
    for card in cards:
        count = counts.get(card.id)
        size = f"{count['parameters'] / 1e6:.3f}" if count else EMPTY
        macs = f"{count['macs'] / 1e9:.3f}" if count else EMPTY
        number_of = {column(ref): as_printed(ref.value) for ref in _first_printed(card)}
        numbers = [number_of.get(name, EMPTY) for name in columns]
        made_from = [name for name in (card.weights, f"{card.id}_pth") if name in WEIGHTS]
        names = joined(f"`{name}`" for name in made_from)
        files = joined(
            f"[{path.suffix[1:]}]({path.relative_to(folder).as_posix()})"
            for pattern in (f"build/*{card.id}.yaml", f"vdsp_params/*-{card.id}-*.json")
            for path in sorted(folder.glob(f"build_in/{pattern}"))
        )
        shape = "x".join(map(str, card.preprocess.input_hw))
        outputs = str(len(card.outputs))
        rows.append([card.id, size, macs, shape, outputs, *numbers, names, files])
    header = [say("Variant"), say("Parameters, M"), say("MACs, G"), say("Input"), say("Outputs")]
    header += [*columns, say("Weights"), say("Files")]
    table = markdown_table(header, rows, numbers=range(1, len(columns) + 5))
    places = joined(ref.printed_in for ref in printed)
    caption = f"{say('Published numbers')}: {datasets}; {say('printed in')} {places}"
    counted = (
        f"{say('MACs: multiply-accumulates of convolutions and linear layers, for one image.')}"
    )
    return "\n\n".join([table, *([counted] if counts else []), *([caption] if printed else [])])


def _first_printed(card: ModelCard) -> List[Reference]:
    """Return the references printed in the card's first source: the authors' own."""
    return [ref for ref in card.references if ref.printed_in == card.references[0].printed_in]


def _weights(root: Path, model: str, say: Say) -> str:
    header = ("Name", "MB", "From", "Commercial use", "Licence", "Holds")
    rows = [
        [
            f"`{file.name}`",
            f"{file.size / 1e6:.1f}" if file.size else EMPTY,
            say("fetched" if file.sources else "by hand"),
            say(file.commercial),
            file.licence,
            file.holds,
        ]
        for file in _files(model)
    ]
    return markdown_table(map(say, header), rows, numbers=(1,))


def _accuracy(root: Path, model: str, say: Say) -> str:
    results = read_numerics(_folder(root, model) / NUMERICS_FILE)
    parts = [
        _accuracy_table([one for one in results if one.dataset == dataset], dataset, say)
        for dataset in dict.fromkeys(one.dataset for one in results)
    ]
    measured = {one.card for one in results}
    others = [card.id for card in _cards(model) if card.id not in measured]
    if others:
        parts.append(f"{say('not measured').capitalize()}: {', '.join(others)}")
    return "\n\n".join(parts)


def _accuracy_table(results: Sequence[Measurement], dataset: str, say: Say) -> str:
    metrics = merged(list(one.metrics) for one in results)
    best = {name: metric for one in results for name, metric in one.metrics.items()}
    arrows = {name: "↑" if metric.higher_is_better else "↓" for name, metric in best.items()}
    rows: List[List[str]] = []
    notes: List[str] = []
    for card_id in dict.fromkeys(one.card for one in results):
        printed = _published(CARDS[card_id], dataset)
        for place, values in printed.items():
            numbers = [as_printed(values[n]) if n in values else EMPTY for n in metrics]
            rows.append([card_id, say("published"), place, *numbers, EMPTY, ""])
        authors = next(iter(printed.values()), {})
        for one in (one for one in results if one.card == card_id):
            how = joined(f"{name} {value}" for name, value in one.settings.items())
            notes.append(f"{len(notes) + 1}. {how}; {one.machine}: `{one.command}`")
            rate = EMPTY if one.images_per_second is None else f"{one.images_per_second:.1f}"
            cells = [_against(one.metrics.get(name), authors.get(name)) for name in metrics]
            rows.append([card_id, one.build, one.engine, *cells, rate, str(len(notes))])
    names = [f"{name}, {best[name].unit} {arrows[name]}" for name in metrics]
    header = [say("Variant"), say("Build"), say("Engine"), *names, say("images/s"), "#"]
    table = markdown_table(header, rows, numbers=range(3, len(header)))
    brackets = say("In brackets: difference from the published number.")
    return "\n\n".join([f"{dataset}. {brackets}", table, "\n".join(notes)])


def _ledger(root: Path, model: str, say: Say) -> str:
    path = _folder(root, model) / LEDGER_FILE
    if not path.exists():
        return say("not measured")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["schema"] == LANDMARK_LEDGER_SCHEMA:
            return render_landmark_ledger(entry, say)
        if entry["schema"] == RECOGNITION_LEDGER_SCHEMA:
            return render_recognition_ledger(entry, say)
        return render_ledger(entry, say)
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} is not a ledger ({error!r}); measure again") from error


def render_ledger(entry: Mapping[str, Any], say: Say = str) -> str:
    """Format a ledger as Markdown.

    Parameters
    ----------
    entry
        The output of ``facezoo evaluate scrfd --ledger``.
    say
        Translates the words of the table.

    Returns
    -------
    str
        Two tables: the steps to the vendor's runner, whose costs add up, and each deviation alone.
    """
    if entry["schema"] != LEDGER_SCHEMA:
        raise InputError(f"the ledger has schema {entry['schema']!r}; expected {LEDGER_SCHEMA!r}")
    levels = list(entry["protocol"]["ap"])
    header = [say("Deviation"), *(f"{level} AP" for level in levels)]
    header += [f"{level} {say('cost')}" for level in levels]

    def row(one: Mapping[str, Any]) -> List[str]:
        costs = [f"{one['cost'][level]:+.2f}" for level in levels]
        return [one["label"], *(f"{one['ap'][level]:.2f}" for level in levels), *costs]

    chain = [entry["protocol"], *entry["chain"]]
    total = {level: chain[-1]["ap"][level] - chain[0]["ap"][level] for level in levels}
    whole = {"label": say("in all"), "ap": chain[-1]["ap"], "cost": total}
    numbers = range(1, len(header))
    settings = f"{entry['card']}, {entry['dataset']}; {entry['machine']}: `{entry['command']}`"
    return "\n\n".join(
        [
            settings,
            say("From the protocol to the vendor's runner, each on top of the one before:"),
            markdown_table(header, [*map(row, chain), row(whole)], numbers=numbers),
            say("Each alone, against the protocol:"),
            markdown_table(header, map(row, entry["alone"]), numbers=numbers),
        ]
    )


def render_landmark_ledger(entry: Mapping[str, Any], say: Say = str) -> str:
    """Format a ledger of landmarks as Markdown.

    Parameters
    ----------
    entry
        The output of ``facezoo evaluate landmarks --ledger``.
    say
        Translates the words of the table.

    Returns
    -------
    str
        One row per crop, input and build, with its cost against the first.
    """
    header = [
        say("Deviation"),
        say("faces"),
        "NME, %",
        say("failure rate at 10 %") + ", %",
        say("CED area to 10 %") + ", %",
        f"NME {say('cost')}",
    ]
    rows = [
        [
            one["label"],
            str(one["faces"]),
            *(f"{one[name]:.3f}" for name in ("nme", "failure_rate", "auc")),
            f"{one['cost']:+.3f}",
        ]
        for one in entry["rows"]
    ]
    settings = f"{entry['card']}, {entry['dataset']}; {entry['machine']}: `{entry['command']}`"
    table = markdown_table(header, rows, numbers=range(1, len(header)))
    return "\n\n".join([settings, say("Each alone, against the first row:"), table])


def _published(card: ModelCard, dataset: str) -> Dict[str, Dict[str, float]]:
    """Group the references on a data set by their source."""
    printed: Dict[str, Dict[str, float]] = {}
    for ref in card.references:
        # The data set of a measurement also states its size.
        if dataset.startswith(ref.dataset):
            printed.setdefault(ref.printed_in, {})[ref.metric] = ref.value
    return printed


def _against(metric: Optional[Metric], published: Optional[float]) -> str:
    if metric is None:
        return EMPTY
    if published is None:
        return number_text(metric.value)
    return f"{number_text(metric.value)} ({metric.value - published:+.2f})"


def _file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be shown in a page: {error}") from error
    kind = path.suffix[1:] if path.suffix in (".json", ".yaml") else "text"
    return f"```{kind}\n{text.rstrip()}\n```"


def _cards(model: str) -> List[ModelCard]:
    return [card for card in CARDS.values() if card.model == model]


def _files(model: str) -> List[WeightFile]:
    return [file for file in WEIGHTS.values() if file.model == model]


def _folder(root: Path, model: str) -> Path:
    """Return the folder of the recipe, which may not exist yet."""
    tasks = [path.parent for path in root.glob(f"face_*/{model}")]
    tasks += [root / card.task for card in _cards(model)]
    if not tasks:
        raise InputError(
            f"{str(root)!r} contains no recipe face_*/{model}; expected the repository"
        )
    return tasks[0] / model


def _page_name(say: Say) -> str:
    return "README.md" if say("Model") == "Model" else "README.zh-CN.md"


def _page_link(root: Path, model: str, say: Say) -> str:
    path = _folder(root, model) / _page_name(say)
    return f"[{model}]({path.relative_to(root).as_posix()})" if path.exists() else model


def _paper_link(card: ModelCard) -> str:
    address = card.upstream.paper
    return address and f"[arXiv {address.rpartition('/')[2]}]({address})"


_OF_ZOO: Mapping[str, Callable[[Path, Say], str]] = {
    "measured": _measured,
    "models": _models,
    "status": _status,
    "builds": builds_table,
    "versions": versions_table,
    "install": install_table,
    "speed": speed_tables,
}
_OF_MODEL: Mapping[str, Callable[[Path, str, Say], str]] = {
    "facts": _facts,
    "variants": _variants,
    "weights": _weights,
    "accuracy": _accuracy,
    "ledger": _ledger,
}
