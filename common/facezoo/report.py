"""Tables of the READMEs, rendered from the cards, from numerics.json and from recorded output.

A page says where a block goes; what stands between the two comments is never typed by hand::

    <!-- facezoo:begin accuracy scrfd -->
    <!-- facezoo:end -->

The words after ``begin`` are the block's name, its argument and, on a Chinese page, ``zh``:

================== =============================================================================
``models``         one row a model: task, paper, licences
``status``         one row a model: what there is, with measured numbers, or why there are none
``facts MODEL``    source, input, outputs, pre-processing
``variants MODEL`` one row a variant, with the numbers its authors publish
``weights MODEL``  one row a downloadable file, with its licence
``accuracy MODEL`` published and measured numbers, from the recipe's numerics.json
``ledger MODEL``   what each departure from the evaluation protocol costs, from ledger.json
``speed``          ratios against peers and against the machine, from the benchmarks' results
``file PATH``      a file of the repository, such as a recorded console text
================== =============================================================================
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .card import ModelCard, Preprocess, Reference, WeightFile
from .errors import UNREADABLE, InputError
from .image.files import write_bytes
from .models import CARDS, MODELS, WEIGHTS

__all__ = [
    "Measurement",
    "Metric",
    "read_counts",
    "read_numerics",
    "record_measurement",
    "render_block",
    "render_blocks",
    "render_ledger",
]

SCHEMA = "facezoo.numerics/1"
NUMERICS_FILE = "numerics.json"
COUNTS_FILE = "counts.json"
COUNTS_SCHEMA = "facezoo.counts/1"
LEDGER_FILE = "ledger.json"
LEDGER_SCHEMA = "facezoo.ledger/1"
BUILDS = ("fp32", "fp16", "int8")
DEVICE_ENGINE = "vsx"
BENCHMARKS = Path("tests", "benchmarks", "results")

_BEGIN = re.compile(r"<!-- facezoo:begin (?P<words>\S.*?) -->")
_END = "<!-- facezoo:end -->"
_EMPTY = "–"

Say = Callable[[str], str]

# What the tables say, on a Chinese page. Names and the licences' own words stay as they are.
_CHINESE = {
    "Parameters, M": "参数量, M",
    "MACs, G": "MACs, G",
    "MACs: multiply-accumulates of convolutions and linear layers, one picture.": (
        "MACs：单张图片的卷积与全连接乘加次数。"
    ),
    "Deviation": "偏差",
    "cost": "代价",
    "in all": "合计",
    "From the protocol to the vendor's runner, each on top of the one before:": (
        "从评测协议到厂商脚本，逐项叠加："
    ),
    "Each alone, against the protocol:": "各项单独与协议相比：",
    "Model": "模型",
    "Task": "任务",
    "face_detection": "人脸检测",
    "face_alignment": "人脸关键点",
    "face_quality": "人脸质量",
    "face_recognition": "人脸识别",
    "Variants": "变体数",
    "Paper": "论文",
    "Licence of the code": "代码许可证",
    "Licence of the weights": "权重许可证",
    "Recipe": "配方",
    "Weights": "权重",
    "Export": "导出",
    "Measured": "测量对象",
    "on a card": "加速卡",
    "not measured": "未测量",
    "neither weights nor data were at hand": "手头既没有权重也没有数据",
    "no card at hand": "手头没有加速卡",
    "in progress": "进行中",
    "fetched": "可自动下载",
    "by hand": "需手动下载",
    "yes": "是",
    "no": "否",
    "unknown": "未知",
    "Fact": "项目",
    "Value": "内容",
    "Source": "来源",
    "Input": "输入",
    "Outputs": "输出",
    "Pre-processing": "预处理",
    "Variant": "变体",
    "Files": "文件",
    "published": "官方公布",
    "Published numbers": "官方数值",
    "printed in": "出处：",
    "Name": "名称",
    "From": "获取方式",
    "Commercial use": "商用",
    "Licence": "许可证",
    "Holds": "内容",
    "Build": "构建",
    "Engine": "引擎",
    "images/s": "张/秒",
    "In brackets: difference from the published number.": "括号内：与官方数值之差。",
    "Work": "任务",
    "against": "对比",
    "ours": "我们",
    "theirs": "对方",
    "times": "倍数",
    "of the roofline": "占上限",
    "Same runtime, same precision:": "相同的运行时与精度：",
    "What choosing the backend buys:": "选择后端带来的提升：",
    "By amount of work:": "随工作量的变化：",
    "JPEGs to faces": "JPEG 到人脸",
    "aligned faces": "对齐的人脸",
    "one decoded picture": "一张已解码的图片",
    "photos": "照片数",
    "workers": "线程数",
    "megapixels": "百万像素",
    "megapixels, --fast_decode": "百万像素，--fast_decode",
    "peak memory, MiB": "峰值内存, MiB",
    "void: other processes were busy": "无效：其他进程占用了处理器",
}


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes
    ----------
    value, unit
        The number, such as 90.97 in ``%``.
    higher_is_better
        Its direction.
    """

    value: float
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Measurement:
    """One entry of a numerics.json: a build of a card on a data set.

    Attributes
    ----------
    card, build, engine, dataset
        What was measured (``fp32``, ``fp16`` or ``int8``), on what runtime and version, over what.
    settings
        Everything that decides the numbers.
    metrics
        Name to number, in the order of the file.
    images_per_second
        Whole pictures, from file to result; None if it was not taken.
    machine, command
        Where, and how to get the same again.
    """

    card: str
    build: str
    engine: str
    dataset: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    images_per_second: Optional[float]
    machine: str
    command: str


def read_numerics(path: Path) -> List[Measurement]:
    """Read the measured numbers of a recipe.

    Parameters
    ----------
    path
        A numerics.json.

    Returns
    -------
    list of Measurement
        In the order of the file; empty if there is no file.

    Raises
    ------
    InputError
        If it is not what its schema says, or names a card or build that does not exist.
    """
    if not path.exists():
        return []
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        schema = entry["schema"]
        results = [_measurement(result) for result in entry["results"]]
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{str(path)!r} is no numerics file ({reason}); measure again") from error
    if schema != SCHEMA:
        raise InputError(f"{str(path)!r} has schema {schema!r}; expected {SCHEMA!r}")
    for result in results:
        if result.card not in CARDS or result.build not in BUILDS:
            raise InputError(
                f"{str(path)!r} holds a result of {result.card!r}, build {result.build!r}; "
                f"expected a card's id and one of {', '.join(BUILDS)}"
            )
    return results


def read_counts(path: Path) -> Dict[str, Dict[str, Any]]:
    """Read what ``facezoo info --record`` counted.

    Parameters
    ----------
    path
        A counts.json.

    Returns
    -------
    dict
        Card id to ``parameters``, ``macs`` and ``input_hw``; empty if there is no file.

    Raises
    ------
    InputError
        If it is not what its schema says.
    """
    if not path.exists():
        return {}
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["schema"] != COUNTS_SCHEMA:
            raise ValueError(f"its schema is {entry['schema']!r}")
        return dict(entry["cards"])
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} holds no counts ({error}); count again") from error


def record_measurement(path: Path, measurement: Measurement) -> None:
    """Put a measurement into a numerics.json, in place of an older one of the same thing.

    Parameters
    ----------
    path
        The file; made if it is not there.
    measurement
        The same thing is the same card, build, runtime (whatever its version) and data set.
    """

    def key(one: Measurement) -> Sequence[Any]:
        cards, engine = list(CARDS), one.engine.split()[0]
        return (one.dataset, cards.index(one.card), engine, BUILDS.index(one.build))

    results = {tuple(key(one)): one for one in (*read_numerics(path), measurement)}
    entry = {"schema": SCHEMA, "results": [asdict(results[one]) for one in sorted(results)]}
    write_bytes(path, (json.dumps(entry, indent=2, allow_nan=False) + "\n").encode())


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    rate = entry["images_per_second"]
    return Measurement(
        card=str(entry["card"]),
        build=str(entry["build"]),
        engine=str(entry["engine"]),
        dataset=str(entry["dataset"]),
        settings=dict(entry["settings"]),
        metrics={
            name: Metric(float(one["value"]), str(one["unit"]), bool(one["higher_is_better"]))
            for name, one in entry["metrics"].items()
        },
        images_per_second=None if rate is None else float(rate),
        machine=str(entry["machine"]),
        command=str(entry["command"]),
    )


def render_blocks(text: str, render: Callable[[Sequence[str]], str]) -> str:
    """Fill every block of a page.

    Parameters
    ----------
    text
        Markdown.
    render
        Takes a block's words, such as ``["accuracy", "scrfd"]``, returns its Markdown.

    Returns
    -------
    str
        The page, with what stood between the comments replaced.

    Raises
    ------
    InputError
        If a comment has no partner; names the line.
    """
    lines: List[str] = []
    opened = 0
    for number, line in enumerate(text.splitlines(), start=1):
        begin = _BEGIN.fullmatch(line)
        if (begin is not None) == (opened > 0) and (begin or line == _END):
            raise InputError(f"line {number}, {line!r}, has no partner")
        if begin:
            lines += [line, render(begin["words"].split())]
            opened = number
        elif line == _END:
            lines.append(line)
            opened = 0
        elif not opened:
            lines.append(line)
    if opened:
        raise InputError(f"the block that begins in line {opened} has no {_END!r}")
    return "\n".join(lines) + "\n"


def render_block(root: Path, words: Sequence[str]) -> str:
    """Render one block.

    Parameters
    ----------
    root
        The repository's folder.
    words
        Name, argument, language; see the module.

    Returns
    -------
    str
        Markdown without a newline at its end.

    Raises
    ------
    InputError
        If there is no such block, model or file.
    """
    chinese = words[-1] == "zh"
    name, *arguments = words[:-1] if chinese else words
    say: Say = (lambda word: _CHINESE.get(word, word)) if chinese else str
    if name in _OF_ZOO and not arguments:
        return _OF_ZOO[name](root, say)
    if name in _OF_MODEL and len(arguments) == 1 and arguments[0] in MODELS:
        return _OF_MODEL[name](root, arguments[0], say)
    if name == "file" and len(arguments) == 1:
        return _file(root / arguments[0])
    known = [*_OF_ZOO, *(f"{one} MODEL" for one in _OF_MODEL), "file PATH"]
    raise InputError(f"block {' '.join(words)!r} is not known; expected {', '.join(known)}")


# One function a block ----------------------------------------------------------------------------


def _models(root: Path, say: Say) -> str:
    header = ("Model", "Task", "Variants", "Paper", "Licence of the code", "Licence of the weights")
    rows = []
    for model in MODELS:
        cards = _cards(model)
        rows.append(
            [
                _page_link(root, model, say),
                say(_folder(root, model).parent.name),
                str(len(cards) or _EMPTY),
                _joined(_paper_link(card) for card in cards),
                _joined(card.upstream.code_licence for card in cards),
                _joined((file.licence for file in _files(model)), "; "),
            ]
        )
    return _table(map(say, header), rows, numbers=(2,))


def _status(root: Path, say: Say) -> str:
    header = ["Model", "Recipe", "Weights", "Export", "Measured", *BUILDS, "on a card"]
    rows = []
    for model in MODELS:
        folder = _folder(root, model)
        results = read_numerics(folder / NUMERICS_FILE)
        fetched = [file for file in _files(model) if file.sources]
        by_hand = len(_files(model)) - len(fetched)
        written, exported = folder / "README.md", folder / "source_code" / "export_onnx.py"
        on_host = [one for one in results if not one.engine.startswith(DEVICE_ENGINE)]
        on_card = [one for one in results if one.engine.startswith(DEVICE_ENGINE)]
        by_build = {build: [one for one in on_host if one.build == build] for build in BUILDS}
        rows.append(
            [
                _page_link(root, model, say),
                say("yes" if written.exists() else "in progress"),
                f"{len(fetched)} {say('fetched')}, {by_hand} {say('by hand')}",
                say("yes" if exported.exists() else "in progress"),
                _subject(results[0]) if results else say("neither weights nor data were at hand"),
                *(_headline(by_build[build]) or say("not measured") for build in BUILDS),
                _headline(on_card) or say("no card at hand"),
            ]
        )
    return _table(map(say, header), rows)


def _subject(result: Measurement) -> str:
    """Say what a row's numbers are: the variant, the data set, the metrics with their unit."""
    names = " / ".join(result.metrics)
    units = _joined(metric.unit for metric in result.metrics.values())
    return f"{result.card}, {result.dataset}: {names} in {units}"


def _headline(results: Sequence[Measurement]) -> str:
    """Show the first result, which a recipe lists first because it is the one to look at."""
    return " / ".join(_number(m.value) for one in results[:1] for m in one.metrics.values())


def _facts(root: Path, model: str, say: Say) -> str:
    card = max(_cards(model), key=lambda one: len(one.outputs))
    height, width = card.preprocess.input_hw
    meanings: Dict[str, List[str]] = {}
    for output in card.outputs:
        meanings.setdefault(output.meaning, []).append(f"`{output.name}`")
    outputs = "<br>".join(f"{' '.join(names)}: {what}" for what, names in meanings.items())
    source = f"[{card.upstream.commit[:7]}]({card.upstream.repository})"
    rows = [
        ("Source", _joined((source, _paper_link(card)))),
        ("Input", f"`{card.input_name}`, B x 3 x {height} x {width}, float32"),
        ("Outputs", outputs),
        ("Pre-processing", _describe(card.preprocess)),
        ("Licence of the code", card.upstream.code_licence),
        ("Licence of the weights", _joined((file.licence for file in _files(model)), "; ")),
    ]
    return _table(map(say, ("Fact", "Value")), [(say(fact), value) for fact, value in rows])


def _describe(preprocess: Preprocess) -> str:
    height, width = preprocess.input_hw
    how = [f"{preprocess.fit} to {width}x{height} ({preprocess.resize})"]
    if preprocess.fit == "letterbox":
        pad = ", ".join(map(str, preprocess.pad_value))
        how.append(f"picture at the {preprocess.anchor}, padded with ({pad})")
    how.append("BGR" if preprocess.swaps_channels else "RGB")
    formula = {"EQUAL": "x", "DIV255": "x / 255", "DIV1275_MINUSONE": "x / 127.5 - 1"}
    pixel = "x / 255" if preprocess.norm.startswith("DIV255") else "x"
    mean, std = (_joined(f"{v:g}" for v in values) for values in (preprocess.mean, preprocess.std))
    how.append(formula.get(preprocess.norm, f"({pixel} - {mean}) / {std}"))
    return "; ".join(how)


def _variants(root: Path, model: str, say: Say) -> str:
    cards, folder = _cards(model), _folder(root, model)
    printed = [ref for card in cards for ref in _first_printed(card)]
    datasets = _joined(ref.dataset for ref in printed)

    def column(ref: Reference) -> str:
        name = f"{ref.metric}, {ref.unit}"
        return name if ref.dataset == datasets else f"{ref.dataset}: {name}"

    columns = list(dict.fromkeys(map(column, printed)))
    counts = read_counts(folder / COUNTS_FILE)
    rows = []
    for card in cards:
        count = counts.get(card.id)
        size = f"{count['parameters'] / 1e6:.3f}" if count else _EMPTY
        macs = f"{count['macs'] / 1e9:.3f}" if count else _EMPTY
        number_of = {column(ref): _as_printed(ref.value) for ref in _first_printed(card)}
        numbers = [number_of.get(name, _EMPTY) for name in columns]
        made_from = [name for name in (card.weights, f"{card.id}_pth") if name in WEIGHTS]
        names = _joined(f"`{name}`" for name in made_from)
        files = _joined(
            f"[{path.suffix[1:]}]({path.relative_to(folder).as_posix()})"
            for pattern in (f"build/*{card.id}.yaml", f"vdsp_params/*-{card.id}-*.json")
            for path in sorted(folder.glob(f"build_in/{pattern}"))
        )
        shape = "x".join(map(str, card.preprocess.input_hw))
        outputs = str(len(card.outputs))
        rows.append([card.id, size, macs, shape, outputs, *numbers, names, files])
    header = [say("Variant"), say("Parameters, M"), say("MACs, G"), say("Input"), say("Outputs")]
    header += [*columns, say("Weights"), say("Files")]
    table = _table(header, rows, numbers=range(1, len(columns) + 5))
    places = _joined(ref.printed_in for ref in printed)
    caption = f"{say('Published numbers')}: {datasets}; {say('printed in')} {places}"
    counted = f"{say('MACs: multiply-accumulates of convolutions and linear layers, one picture.')}"
    return "\n\n".join([table, *([counted] if counts else []), *([caption] if printed else [])])


def _first_printed(card: ModelCard) -> List[Reference]:
    """Return the references of the place that the card names first: the authors' own."""
    return [ref for ref in card.references if ref.printed_in == card.references[0].printed_in]


def _weights(root: Path, model: str, say: Say) -> str:
    header = ("Name", "MB", "From", "Commercial use", "Licence", "Holds")
    rows = [
        [
            f"`{file.name}`",
            f"{file.size / 1e6:.1f}" if file.size else _EMPTY,
            say("fetched" if file.sources else "by hand"),
            say(file.commercial),
            file.licence,
            file.holds,
        ]
        for file in _files(model)
    ]
    return _table(map(say, header), rows, numbers=(1,))


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
    metrics = _merged(list(one.metrics) for one in results)
    best = {name: metric for one in results for name, metric in one.metrics.items()}
    arrows = {name: "↑" if metric.higher_is_better else "↓" for name, metric in best.items()}
    rows: List[List[str]] = []
    notes: List[str] = []
    for card_id in dict.fromkeys(one.card for one in results):
        printed = _published(CARDS[card_id], dataset)
        for place, values in printed.items():
            numbers = [_as_printed(values[n]) if n in values else _EMPTY for n in metrics]
            rows.append([card_id, say("published"), place, *numbers, _EMPTY, ""])
        authors = next(iter(printed.values()), {})
        for one in (one for one in results if one.card == card_id):
            how = _joined(f"{name} {value}" for name, value in one.settings.items())
            notes.append(f"{len(notes) + 1}. {how}; {one.machine}: `{one.command}`")
            rate = _EMPTY if one.images_per_second is None else f"{one.images_per_second:.1f}"
            cells = [_against(one.metrics.get(name), authors.get(name)) for name in metrics]
            rows.append([card_id, one.build, one.engine, *cells, rate, str(len(notes))])
    names = [f"{name}, {best[name].unit} {arrows[name]}" for name in metrics]
    header = [say("Variant"), say("Build"), say("Engine"), *names, say("images/s"), "#"]
    table = _table(header, rows, numbers=range(3, len(header)))
    brackets = say("In brackets: difference from the published number.")
    return "\n\n".join([f"{dataset}. {brackets}", table, "\n".join(notes)])


def _ledger(root: Path, model: str, say: Say) -> str:
    path = _folder(root, model) / LEDGER_FILE
    if not path.exists():
        return say("not measured")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return render_ledger(entry, say)
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} is no ledger ({error!r}); measure again") from error


def render_ledger(entry: Mapping[str, Any], say: Say = str) -> str:
    """Write a ledger as Markdown.

    Parameters
    ----------
    entry
        What ``facezoo evaluate scrfd --ledger`` writes.
    say
        Translates the table's words.

    Returns
    -------
    str
        Two tables: the way to the vendor's runner, whose costs add up, and each deviation alone.
    """
    if entry["schema"] != LEDGER_SCHEMA:
        raise InputError(f"a ledger of schema {entry['schema']!r}; expected {LEDGER_SCHEMA!r}")
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
            _table(header, [*map(row, chain), row(whole)], numbers=numbers),
            say("Each alone, against the protocol:"),
            _table(header, map(row, entry["alone"]), numbers=numbers),
        ]
    )


def _speed(root: Path, say: Say) -> str:
    """Show the benchmarks that were run; the two kinds of comparison stay apart."""
    results = {name: _read_benchmark(root, name) for name in ("peers", "embedding", "latency")}
    try:
        rows = [
            *_peer_rows(results["peers"], say),
            *_embedding_rows(results["embedding"], say),
            *_latency_rows(results["latency"], say),
        ]
        parts = []
        head = ("Work", "ours", "against", "theirs", "times", "of the roofline")
        for table, title in (
            ("same", "Same runtime, same precision:"),
            ("backend", "What choosing the backend buys:"),
        ):
            chosen = [cells for kind, cells in rows if kind == table]
            if chosen:
                parts += [say(title), _table(map(say, head), chosen, numbers=(1, 3, 4, 5))]
        parts += _peer_notes(results["peers"], say)
        parts += _scaling(_read_benchmark(root, "scaling"), say)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        where = str(root / BENCHMARKS)
        raise InputError(f"a result in {where!r} is another's ({error!r}); run it again") from error
    return "\n\n".join(parts) or say("not measured")


def _read_benchmark(root: Path, name: str) -> Dict[str, Any]:
    path = root / BENCHMARKS / f"{name}.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no result of a benchmark ({error})") from error


def _peer_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    for row in result.get("rows", ()):
        ours, theirs = (f"{rate:.1f} {say('images/s')}" for rate in row["rates"])
        share = result["share_of_roofline"].get(row["ours"])
        cells = [f"{say('JPEGs to faces')}, {row['ours']}", ours, row["theirs"], theirs]
        yield (
            row["table"],
            [*cells, _number(row["ratio"]), _EMPTY if share is None else _number(share)],
        )


def _embedding_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    best: List[Tuple[str, Mapping[str, Any]]] = list(result.get("best", {}).items())
    # The first is the released file in ONNX Runtime, which the others are held against.
    rates = [
        f"{row['faces_per_second']:.0f}/s, {row['sessions']} x {row['batch']}" for _, row in best
    ]
    for (name, row), rate in zip(best[1:], rates[1:]):
        kind = "same" if "ONNX Runtime" in name else "backend"
        work = f"{say('aligned faces')}, {result['model']}, {name}"
        yield kind, [work, rate, best[0][0], rates[0], _number(row["ratio"]), _EMPTY]


def _latency_rows(result: Mapping[str, Any], say: Say) -> Iterable[Tuple[str, List[str]]]:
    for picture in result.get("pictures", ()):
        ours, raw = (f"{ms:.1f} ms" for ms in (picture["ms"], result["session_ms"]))
        cells = [f"{say('one decoded picture')}, {picture['holds']}", ours, "session.run", raw]
        yield "same", [*cells, _number(1 / picture["ratio"]), _EMPTY]


def _peer_notes(result: Mapping[str, Any], say: Say) -> List[str]:
    if not result:
        return []
    machine, versions = result["machine"], result["peers"]
    others = max((one for one in result["others"] if one is not None), default=None)
    session = ", ".join(f"{name} {value:.2f}" for name, value in result["session"]["ratio"].items())
    notes = [
        f"{len(result['photos'])} JPEG, {result['images']} {say('photos')}",
        f"{machine['cpu']}, {machine['cores']} cores, {result['threads']} threads",
        f"score {result['score']}, IoU {result['nms']}; {result['rounds']} rounds, medians",
        *(f"{name} {version}" for name, version in versions.items()),
        f"session.run: {session}",
    ]
    if others is not None:
        notes.append(f"others {100 * others:.1f} %")
    if result["void"]:
        notes.append(f"*{say('void: other processes were busy')}*")
    return ["; ".join(notes)]


def _scaling(result: Mapping[str, Any], say: Say) -> List[str]:
    if not result:
        return []
    rows = []
    for key, name in (("by_images", "photos"), ("by_workers", "workers")):
        for amount, one in result[key].items():
            rows.append([say(name), amount, one["images_per_second"], one["mib"]])
    for amount, both in result["by_megapixels"].items():
        for key, name in (("full", "megapixels"), ("fast_decode", "megapixels, --fast_decode")):
            rows.append([say(name), amount, both[key]["images_per_second"], both[key]["mib"]])
    cells = [[name, amount, f"{rate:.1f}", f"{mib:.0f}"] for name, amount, rate, mib in rows]
    head = (say("Work"), "", say("images/s"), say("peak memory, MiB"))
    return [say("By amount of work:"), _table(head, cells, numbers=(1, 2, 3))]


def _published(card: ModelCard, dataset: str) -> Dict[str, Dict[str, float]]:
    """Gather the references on a data set by the place where they are printed."""
    printed: Dict[str, Dict[str, float]] = {}
    for ref in card.references:
        # A measurement's data set also says how much of it there was.
        if dataset.startswith(ref.dataset):
            printed.setdefault(ref.printed_in, {})[ref.metric] = ref.value
    return printed


def _against(metric: Optional[Metric], published: Optional[float]) -> str:
    if metric is None:
        return _EMPTY
    if published is None:
        return _number(metric.value)
    return f"{_number(metric.value)} ({metric.value - published:+.2f})"


def _file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be shown in a page: {error}") from error
    kind = path.suffix[1:] if path.suffix in (".json", ".yaml") else "text"
    return f"```{kind}\n{text.rstrip()}\n```"


# What they share ---------------------------------------------------------------------------------


def _cards(model: str) -> List[ModelCard]:
    return [card for card in CARDS.values() if card.model == model]


def _files(model: str) -> List[WeightFile]:
    return [file for file in WEIGHTS.values() if file.model == model]


def _folder(root: Path, model: str) -> Path:
    """Return the recipe's folder, which may not be there yet."""
    tasks = [path.parent for path in root.glob(f"face_*/{model}")]
    tasks += [root / card.task for card in _cards(model)]
    if not tasks:
        raise InputError(f"{str(root)!r} holds no recipe face_*/{model}; is it the repository?")
    return tasks[0] / model


def _page_link(root: Path, model: str, say: Say) -> str:
    page = "README.md" if say("Model") == "Model" else "README.zh-CN.md"
    path = _folder(root, model) / page
    return f"[{model}]({path.relative_to(root).as_posix()})" if path.exists() else model


def _paper_link(card: ModelCard) -> str:
    address = card.upstream.paper
    return address and f"[arXiv {address.rpartition('/')[2]}]({address})"


def _number(value: float) -> str:
    return f"{value:.2f}"


def _as_printed(value: float) -> str:
    """Show a published number with its digits, two of them or three after the point."""
    return max(_number(value), f"{round(value, 3)}", key=len)


def _joined(values: Iterable[str], separator: str = ", ") -> str:
    return separator.join(dict.fromkeys(filter(None, values))) or _EMPTY


def _merged(lists: Iterable[Iterable[str]]) -> List[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _table(
    header: Iterable[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """Write a Markdown table; ``numbers`` are the columns flush right."""
    heads = list(header)
    rule = ["--:" if column in numbers else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


_OF_ZOO: Mapping[str, Callable[[Path, Say], str]] = {
    "models": _models,
    "status": _status,
    "speed": _speed,
}
_OF_MODEL: Mapping[str, Callable[[Path, str, Say], str]] = {
    "facts": _facts,
    "variants": _variants,
    "weights": _weights,
    "accuracy": _accuracy,
    "ledger": _ledger,
}
