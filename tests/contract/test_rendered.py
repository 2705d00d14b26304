"""What is rendered is current: card = build YAML = vdsp JSON, and every block of the pages."""

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import facezoo
import pytest
import yaml
from facezoo import models
from facezoo.card import Preprocess, Reference
from facezoo.cli.docs import render_pages
from facezoo.cli.main import main
from facezoo.cli.render import process_ops, render_build, render_recipes
from facezoo.errors import InputError
from facezoo.image.preprocess import describe_differences
from facezoo.models import CARDS
from facezoo.reports.numerics import read_numerics
from facezoo.reports.readme import render_block, render_blocks
from facezoo.vacc.build_config import read_build_config
from facezoo.vacc.vdsp import read_vdsp

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
YAMLS = sorted(REPOSITORY.glob("face_*/*/build_in/build/*.yaml"))
JSONS = sorted(REPOSITORY.glob("face_*/*/build_in/vdsp_params/*.json"))
PAGE = "face_detection/scrfd/README.md"

METRICS = {"AP easy": {"value": 90.0, "unit": "%", "higher_is_better": True}}
RESULT = {
    "card": "scrfd_500m_bnkps",
    "build": "fp32",
    "engine": "ort 1.0",
    "dataset": "WIDER FACE val, 3,226 photos",
    "settings": {"profile": "eval"},
    "metrics": METRICS,
    "images_per_second": 12.34,
    "machine": "two cores",
    "command": "facezoo evaluate scrfd",
}
NUMERICS = {"schema": "facezoo.numerics/1", "results": [RESULT]}


# Recorded numbers ---------------------------------------------------------------------------------


def check_measured(entry):
    """A recorded number says how many of which items it was measured on, and their list's hash."""
    of = entry.get("measured", {})
    problems = [f"no {name}" for name in ("dataset", "unit", "count", "total") if name not in of]
    if not re.fullmatch("[0-9a-f]{64}", of.get("sha256", "")):
        problems.append("no hash of its list")
    if not problems and not entry["dataset"].startswith(of["dataset"]):
        problems.append(f"{entry['dataset']!r} is not {of['dataset']!r}")
    return problems


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("face_*/*/[nl]*.json")), ids=lambda path: str(path.parent.name)
)
def test_recorded_numbers_say_what_they_were_measured_on(path):
    content = json.loads(path.read_text("utf-8"))
    entries = content.get("results", [content])
    assert entries
    for entry in entries:
        assert check_measured(entry) == []
        assert check_measured({**entry, "measured": {}})
        assert check_measured({**entry, "dataset": "another"})


# Vendor files -------------------------------------------------------------------------------------


def check_recipes(files, root):
    """Rendered files are there as rendered, and nothing else lies beside them."""
    problems = [
        f"{name} differs from its card"
        for name, text in files.items()
        if not (root / name).is_file() or (root / name).read_text("utf-8") != text
    ]
    found = {
        path.relative_to(root).as_posix() for path in root.glob("face_*/*/build_in/[bv]*/*.[yj]*")
    }
    return problems + [f"{name} comes from no card" for name in sorted(found - set(files))]


def check_vdsp(path, card):
    """The JSON, read as a user's is, says what the card says."""
    return describe_differences(read_vdsp(path, card.preprocess), card.preprocess)


def check_build(path, card):
    """The YAML, read as a user's is, says what the card says."""
    config = read_build_config(path)
    shape = (1, 3, *card.preprocess.input_hw)
    found = dict(config.frontend.shape)
    problems = [] if found == {card.input_name: (shape,)} else [f"{path.name}: input {found}"]
    if config.name != f"{path.stem}_{config.backend.dtype}":
        problems.append(f"{path.name}: name {config.name}")
    ops = [{"type": op.type, **op.arguments} for op in config.dataset.process_ops]
    if json.loads(json.dumps(ops)) != json.loads(json.dumps(process_ops(card.preprocess))):
        problems.append(f"{path.name}: process_ops {ops}")
    return problems


def card_of_yaml(path):
    return CARDS[read_build_config(path).frontend.checkpoint.stem]


def card_of_json(path):
    vendor = models.VENDOR_FILES
    defaults = {model: CARDS[one.default] for model, one in vendor.items() if one.default}
    named = {**CARDS, **defaults}
    return next(card for name, card in named.items() if f"-{name}-" in path.name)


def test_recipes_are_current():
    assert check_recipes(render_recipes(), REPOSITORY) == []


def test_every_scrfd_card_has_its_files():
    scrfd = {card.id for card in CARDS.values() if card.model == "scrfd"}
    assert {card_of_json(path).id for path in JSONS if "scrfd" in path.name} == scrfd
    assert {card_of_yaml(path).id for path in YAMLS if "scrfd" in path.name} == scrfd


@pytest.mark.parametrize("path", JSONS, ids=lambda path: path.stem)
def test_vdsp_files_say_what_the_cards_say(path):
    assert check_vdsp(path, card_of_json(path)) == []


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_build_files_say_what_the_cards_say(path):
    assert check_build(path, card_of_yaml(path)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [('"OimageWidth": 640', '"OimageWidth": 256'), ("128.0", "127.5"), ("LETTERBOX", "RESIZE")],
)
def test_an_edited_vdsp_file_is_noticed(tmp_path, old, new):
    path = next(path for path in JSONS if "scrfd_500m_bnkps" in path.name)
    copy = tmp_path / path.name
    copy.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    assert check_vdsp(copy, card_of_json(path)) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [("640, 640", "640, 320"), ("127.5", "0.5"), ("official_scrfd_fp16", "official_scrfd_int8")],
)
def test_an_edited_build_file_is_noticed(tmp_path, old, new):
    path = next(path for path in YAMLS if path.stem == "official_scrfd")
    copy = tmp_path / path.name
    copy.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    assert check_build(copy, card_of_yaml(path)) != []


def test_a_changed_card_and_a_stranger_are_noticed(tmp_path):
    files = render_recipes()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    assert check_recipes(files, tmp_path) == []
    name = next(iter(files))
    assert check_recipes({**files, name: files[name].replace("640", "641")}, tmp_path) != []
    (tmp_path / name).with_name("official_scrfd_9g.yaml").write_text("name: x\n")
    assert len(check_recipes(files, tmp_path)) == 1


# Pages --------------------------------------------------------------------------------------------


def stale_pages(root):
    return [
        path.name for path, text in render_pages(root).items() if path.read_text("utf-8") != text
    ]


@pytest.fixture
def copy(tmp_path):
    """A repository of its pages and what they show."""
    for pattern in ("*.md", "common/*.md", "face_*/*.md", "face_*/*/*.md", "face_*/*/*.json"):
        for path in REPOSITORY.glob(pattern):
            target = tmp_path / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for pattern in ("face_*/*/expected", "face_*/*/build_in"):
        for folder in REPOSITORY.glob(pattern):
            shutil.copytree(folder, tmp_path / folder.relative_to(REPOSITORY))
    results = Path("tests", "benchmarks", "results")
    shutil.copytree(REPOSITORY / results, tmp_path / results)
    for pattern in (
        "tests/versions/*.json",
        "face_*/*/source_code/export_onnx.py",
        "tests/faults/*.md",
        "tests/faults/*.txt",
    ):
        for path in REPOSITORY.glob(pattern):
            target = tmp_path / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path


def test_pages_are_current():
    assert stale_pages(REPOSITORY) == []


def test_docs_writes_what_it_checks(copy, capsys):
    page = copy / PAGE
    text = page.read_text("utf-8")
    page.write_text(text.replace("90.97", "91.97"), "utf-8")
    assert main(["docs", "--check", "--root", str(copy)]) == 3
    assert PAGE in capsys.readouterr().err
    assert "91.97" in page.read_text("utf-8")
    assert main(["docs", "--root", str(copy)]) == 0
    assert page.read_text("utf-8") == text
    assert main(["docs", "--check", "--root", str(copy)]) == 0


def test_a_number_changed_in_its_file_makes_the_pages_stale(copy):
    assert stale_pages(copy) == []
    file = copy / "face_detection/scrfd/expected/astronaut.txt"
    file.write_text(file.read_text("utf-8").replace("1", "2", 1), "utf-8")
    assert set(stale_pages(copy)) == {"README.md", "README.zh-CN.md"}


def test_a_block_that_cannot_be_rendered_names_its_page(copy, capsys):
    page = copy / PAGE
    page.write_text(page.read_text("utf-8").replace("begin weights scrfd", "begin wieghts scrfd"))
    assert main(["docs", "--root", str(copy)]) == 2
    said = capsys.readouterr().err
    assert PAGE in said and "wieghts scrfd" in said
    assert main(["docs", "--root", str(copy / "common")]) == 2


# Blocks -------------------------------------------------------------------------------------------


def numerics(tmp_path, *results):
    recipe = tmp_path / "face_detection" / "scrfd"
    recipe.mkdir(parents=True)
    entry = {**NUMERICS, "results": list(results)}
    (recipe / "numerics.json").write_text(json.dumps(entry))
    return tmp_path


def rows(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_blocks_are_replaced_and_nothing_else():
    text = "a\n<!-- facezoo:begin x y -->\nold\n<!-- facezoo:end -->\nb\n"
    filled = render_blocks(text, " ".join)
    assert filled == "a\n<!-- facezoo:begin x y -->\nx y\n<!-- facezoo:end -->\nb\n"
    assert render_blocks(filled, " ".join) == filled
    assert render_blocks("no block\n", " ".join) == "no block\n"


@pytest.mark.parametrize(
    "text",
    [
        "<!-- facezoo:begin x -->\n",
        "<!-- facezoo:end -->\n",
        "<!-- facezoo:begin x -->\n<!-- facezoo:begin y -->\n<!-- facezoo:end -->\n",
    ],
)
def test_comments_without_partner_are_refused(text):
    with pytest.raises(InputError, match=r"line [12]"):
        render_blocks(text, " ".join)


def test_what_is_not_measured_says_so(tmp_path):
    (tmp_path / "face_detection" / "scrfd").mkdir(parents=True)
    scrfd = rows(render_block(tmp_path, ["measured"]))[2]
    assert scrfd == ["scrfd", "no weights or data available", "–", *["not measured"] * 3]
    assert rows(render_block(tmp_path, ["status"]))[2][-1] == "no device available"
    assert "scrfd_34g" in render_block(tmp_path, ["accuracy", "scrfd"])
    assert "not measured" in render_block(tmp_path, ["accuracy", "scrfd"]).lower()
    assert "未测量" in render_block(tmp_path, ["accuracy", "scrfd", "zh"])


def test_accuracy_shows_published_measured_and_difference(tmp_path):
    root = numerics(tmp_path, RESULT, {**RESULT, "build": "fp16", "images_per_second": None})
    table = rows(render_block(root, ["accuracy", "scrfd"]))
    assert table[2][:2] == ["scrfd_500m_bnkps", "published"]
    assert table[2][3] == "90.97"
    assert table[3][1:5] == ["fp32", "ort 1.0", "90.00 (-0.97)", "12.3"]
    assert table[4][1] == "fp16"
    assert table[4][4] == "–"
    assert "1. profile eval; two cores: `facezoo evaluate scrfd`" in render_block(
        root, ["accuracy", "scrfd"]
    )


def test_the_first_page_shows_the_first_result_of_each_build(tmp_path):
    better = {"AP easy": {**METRICS["AP easy"], "value": 95.0}}
    on_card = {**RESULT, "engine": "vsx 2.0", "build": "int8"}
    root = numerics(tmp_path, RESULT, {**RESULT, "metrics": better}, on_card)
    found = rows(render_block(root, ["measured"]))[2]
    assert found[2:] == ["AP easy, %", "90.00", "not measured", "not measured"]
    assert rows(render_block(root, ["status"]))[2][-1] == "90.00"


def test_published_numbers_keep_their_digits(monkeypatch, tmp_path):
    card = CARDS["scrfd_500m"]
    reference = Reference("Some set", "accuracy", 99.817, "%", True, "a paper")
    cards = {card.id: dataclasses.replace(card, references=(reference,))}
    monkeypatch.setattr("facezoo.reports.readme.CARDS", cards)
    (tmp_path / "face_detection" / "scrfd").mkdir(parents=True)
    assert rows(render_block(tmp_path, ["variants", "scrfd"]))[2][5] == "99.817"


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        (Preprocess((112, 96), norm="DIV255", color_conversion="RGB2BGR"), "96x112.*BGR; x / 255"),
        (
            Preprocess((64, 64), norm="DIV255_MINUSMEAN_DIVSTD", mean=(0.5,) * 3, std=(0.25,) * 3),
            r"\(x / 255 - 0.5\) / 0.25",
        ),
        (
            Preprocess((64, 64), fit="letterbox", anchor="top_left"),
            r"top_left, padded with \(0, 0, 0\)",
        ),
    ],
)
def test_facts_describe_the_preprocessing(monkeypatch, tmp_path, preprocess, words):
    card = dataclasses.replace(CARDS["scrfd_500m"], preprocess=preprocess)
    monkeypatch.setattr("facezoo.reports.readme.CARDS", {card.id: card})
    text = " ".join(" ".join(row) for row in rows(render_block(tmp_path, ["facts", "scrfd"])))
    assert re.search(words, text)


def test_names_stay_inside_the_quotes_of_a_build_yaml():
    evil = "x\"\nbackend: {type: evil}\n# ' : ["
    card = dataclasses.replace(CARDS["scrfd_500m"], id=evil, input_name=evil)
    plain = yaml.safe_load(render_build(CARDS["scrfd_500m"], "plain"))
    read = yaml.safe_load(render_build(card, evil))
    assert read["name"] == f"{evil}_fp16"
    assert read["frontend"]["checkpoint"] == f"onnx/{evil}.onnx"
    assert list(read["frontend"]["shape"]) == [evil]
    assert list(read) == list(plain)
    assert read["backend"] == plain["backend"]


def test_a_model_without_a_paper_has_no_empty_link(monkeypatch):
    card = CARDS["scrfd_500m"]
    card = dataclasses.replace(card, upstream=dataclasses.replace(card.upstream, paper=""))
    monkeypatch.setattr("facezoo.reports.readme.CARDS", {card.id: card})
    source = rows(render_block(REPOSITORY, ["facts", "scrfd"]))[2]
    assert source[1].endswith("/detection/scrfd)")
    assert rows(render_block(REPOSITORY, ["models"]))[2][3] == "–"


@pytest.mark.parametrize("model", models.MODELS)
@pytest.mark.parametrize("block", ["weights", "variants", "accuracy"])
def test_every_model_can_be_shown(block, model):
    for language in ([], ["zh"]):
        table = rows(render_block(REPOSITORY, [block, model, *language]))
        assert len({len(row) for row in table}) <= 1


@pytest.mark.parametrize(
    "words", [["accuracy"], ["accuracy", "arcface"], ["models", "scrfd"], ["file", "nowhere.txt"]]
)
def test_unknown_blocks_are_refused(words):
    with pytest.raises(InputError):
        render_block(REPOSITORY, words)


@pytest.mark.parametrize(
    "change",
    [
        {"card": "scrfd_9000g"},
        {"build": "bf16"},
        {"metrics": {"AP easy": {"value": "high"}}},
        {"metrics": 3},
    ],
)
def test_malformed_numbers_are_refused(tmp_path, change):
    root = numerics(tmp_path, {**RESULT, **change})
    with pytest.raises(InputError, match=r"numerics\.json"):
        read_numerics(root / "face_detection/scrfd/numerics.json")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": "facezoo.numerics/2", "results": []}', "{}"]
)
def test_files_of_another_kind_are_refused(tmp_path, text):
    (tmp_path / "numerics.json").write_text(text)
    with pytest.raises(InputError, match=r"numerics\.json"):
        read_numerics(tmp_path / "numerics.json")
    assert read_numerics(tmp_path / "absent.json") == []


# Speed --------------------------------------------------------------------------------------------

PEERS = {
    "machine": {"cpu": "a CPU", "cores": 2},
    "photos": ["a.jpg", "b.jpg"],
    "images": 6,
    "threads": 2,
    "score": 0.5,
    "nms": 0.4,
    "rounds": 9,
    "peers": {"insightface": "2.1"},
    "rows": [
        {"table": kind, "ours": ours, "theirs": "theirs", "rates": [60.0, 40.0], "ratio": 1.5}
        for kind, ours in (("same", "fp32"), ("backend", "bf16"))
    ],
    "share_of_roofline": {"fp32": 0.93},
    "others": [0.01, 0.04],
    "void": False,
    "session": {"ratio": {"insightface": 1.01}},
}
EMBEDDING = {
    "model": "m.onnx",
    "best": {
        name: {"faces_per_second": 100.0 * ratio, "sessions": 2, "batch": 8, "ratio": ratio}
        for name, ratio in (
            ("released, ONNX Runtime fp32", 1.0),
            ("rewritten, ONNX Runtime fp32", 1.7),
            ("released, OpenVINO bf16", 4.0),
        )
    },
}
TIMES = {"theirs": {"times": 2.0, "range": [1.9, 2.1]}}
CHAIN = {
    "crowds": {
        "1 face": {
            "photos/s": {"facezoo": 20.0, "facezoo, size auto": 40.0, "theirs": 10.0},
            "times the rate of": {"facezoo": TIMES, "facezoo, size auto": TIMES},
        }
    }
}
WIDER = {
    "seconds": {"ONNX Runtime fp32": 60.0, "insightface fp32": 90.0},
    "times the rate of insightface": {"ONNX Runtime fp32": 1.5},
}
PICTURE = {"holds": "640x480, 1 face", "ms": 13.0, "ratio": 1.08}
LATENCY = {"session_ms": 12.0, "pictures": [PICTURE]}
RATE = {"images_per_second": 50.0, "mib": 200.0}
SCALING = {
    "by_images": {"100": RATE},
    "by_workers": {"2": RATE},
    "by_megapixels": {"24.0": {"full": RATE, "fast_decode": {**RATE, "images_per_second": 80.0}}},
}


RATIOS = {"seconds_ratio": 1.04, "cpu_seconds_ratio": 1.02, "mib_ratio": 1.006}
QUOTA = {
    "predict": {"ort": {"told of 64, quota 2": RATIOS}},
}
INT8 = {
    "times": {
        "m": {"milliseconds": {"fp32": 12.0, "int8": 6.04, "int8, s8/s8": 1.0}},
    }
}
A = {"cpu": "CPU A", "instruction_sets": ["AVX2"], "cores": 2}
B = {"cpu": "CPU B", "instruction_sets": ["AVX2", "AMX"], "cores": 4}


def speed(tmp_path, machine=A, block="speed", **results):
    folder = tmp_path / "tests" / "benchmarks" / "results" / machine["cpu"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in {"machine": machine, **results}.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return render_block(tmp_path, [block])


def test_the_two_kinds_of_speed_stand_apart(tmp_path):
    assert render_block(tmp_path, ["speed"]) == "not measured"
    assert speed(tmp_path) == "not measured"
    results = {"peers": PEERS, "embedding": EMBEDDING, "latency": LATENCY, "scaling": SCALING}
    results.update(chain=CHAIN, widerface_val=WIDER)
    text = speed(tmp_path, **results, quota=QUOTA)
    same, rest = text.split("What choosing the backend buys:")
    backend, rest = rest.split("Share of the roofline:")
    roofline, rest = rest.split("By amount of work:")
    amounts, rest = rest.split("Told of 64 cores")
    cells = [rows(part)[2:] for part in (same, backend)]
    assert [[row[0].split(", ", 1)[-1], *row[1:]] for row in cells[0]] == [
        ["fp32", "theirs", "1.50 (60.0 : 40.0 images/s)"],
        ["1 face", "theirs fp32", "2.00 (20.0 : 10.0 images/s)"],
        ["as a process, ONNX Runtime fp32", "insightface fp32", "1.50 (60 : 90 s)"],
        ["m.onnx, rewritten, ONNX Runtime fp32", "released, ONNX Runtime fp32"]
        + ["1.70 (170/s, 2 x 8 : 100/s, 2 x 8)"],
        ["640x480, 1 face", "session.run", "0.93 (13.0 : 12.0 ms)"],
    ]
    assert [row[2][:4] for row in cells[1]] == ["1.50", "2.00", "4.00"]
    assert rows(roofline)[2:] == [["fp32", "0.93"]]
    assert [row[2] for row in rows(amounts)[2:]] == [*["50.0 (200)"] * 3, "80.0 (200)"]
    assert [row[1:] for row in rows(rest)[2:]] == [
        ["time", "1.04"],
        ["processor time", "1.02"],
        ["peak memory", "1.01"],
    ]
    assert "insightface 2.1" in rest and "others 4.0 %" in rest and "void" not in rest
    assert "CPU A, AVX2, 2 cores" in rest


def test_machines_stand_side_by_side(tmp_path):
    more = {**PEERS, "rows": [*PEERS["rows"], {**PEERS["rows"][0], "theirs": "others"}]}
    speed(tmp_path, peers=PEERS)
    table = rows(speed(tmp_path, B, peers=more, scaling=SCALING).split("What choosing")[0])
    assert table[0][2:] == ["CPU A, AVX2, 2 cores", "CPU B, AMX, 4 cores"]
    assert [row[1:] for row in table[2:]] == [
        ["theirs", *["1.50 (60.0 : 40.0 images/s)"] * 2],
        ["others", "not measured", "1.50 (60.0 : 40.0 images/s)"],
    ]
    assert "CPU B, AVX2, AMX, 4 cores" in render_block(tmp_path, ["speed"])


def test_the_build_to_choose_is_the_fastest_of_the_machine(tmp_path):
    assert speed(tmp_path, block="builds") == "not measured"
    slow = {"times": {"m": {"milliseconds": {"fp32": 9.0, "int8": 9.5}}}}
    speed(tmp_path, int8=INT8)
    assert rows(speed(tmp_path, B, block="builds", int8=slow))[2:] == [
        ["m", "fp32", "12.0", "9.0"],
        ["m", "int8", "6.0", "9.5"],
        ["m", "**choose**", "**int8**", "**fp32**"],
    ]


def test_the_text_of_a_benchmark_is_shown_by_machine(tmp_path):
    words = ["benchmark", "int8"]
    assert render_block(tmp_path, words) == "not measured"
    speed(tmp_path), speed(tmp_path, B)
    (tmp_path / "tests" / "benchmarks" / "results" / "CPU B" / "int8.txt").write_text("1 ms\n")
    assert render_block(tmp_path, words) == (
        "CPU B, AMX, 4 cores:\n\n```text\n1 ms\n```\n\nCPU A, AVX2, 2 cores: not measured"
    )


def test_results_lie_in_the_folder_of_their_machine(tmp_path, monkeypatch):
    file = REPOSITORY / "tests" / "benchmarks" / "records.py"
    spec = importlib.util.spec_from_file_location("records", file)
    records = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(records)
    found = {}
    for name, cpu, sets in (
        ("a", "A(R) CPU", ["AVX2"]),
        ("other sets", "A(R) CPU", ["VNNI", "AVX2"]),
        ("again", "A(R) CPU", ["AVX2"]),
    ):
        machine = {"cpu": cpu, "instruction_sets": sets, "cores": 2}
        monkeypatch.setattr(records, "describe_machine", lambda machine=machine: machine)
        found[name] = records.folder_of_this_machine(tmp_path)
    assert found["a"] == found["again"] != found["other sets"]
    assert found["a"].name == "a-cpu-avx2-2-cores"
    assert json.loads((found["other sets"] / "machine.json").read_text()) == {
        "cpu": "A(R) CPU", "instruction_sets": ["VNNI", "AVX2"], "cores": 2,
    }  # fmt: skip


def test_every_recorded_result_has_its_machine():
    results = REPOSITORY / "tests" / "benchmarks" / "results"
    assert {path.parent.name for path in results.rglob("*.json")} == {
        path.parent.name for path in results.glob("*/machine.json")
    }


def test_a_void_run_says_so(tmp_path):
    assert "*void: other processes" in speed(tmp_path, peers={**PEERS, "void": True})


def test_a_result_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="run it again"):
        speed(tmp_path, peers={"rows": [{"table": "same"}]})
    (tmp_path / "tests" / "benchmarks" / "results" / "CPU A" / "peers.json").write_text("{")
    with pytest.raises(InputError, match="not a benchmark result"):
        render_block(tmp_path, ["speed"])


def test_what_an_installation_took_is_shown(tmp_path):
    assert render_block(tmp_path, ["install"]) == "not measured"
    row = {
        "python": "3.8.18",
        "installer": "uv",
        "install_seconds": 12.3,
        "megabytes": 382,
        "load": 3,
    }
    row.update(use_seconds=45.6, start_cpu_seconds={"facezoo list": 0.12})
    speed(tmp_path, install={"wheel": "x.whl", "environments": [row]})
    text = render_block(tmp_path, ["install"])
    assert rows(text)[2] == ["3.8.18", "uv", "3", "12", "382", "46", "0.12"]
    assert "CPU A, AVX2, 2 cores; x.whl" in text
    speed(tmp_path, install={"environments": [{}]})
    with pytest.raises(InputError, match="has another form"):
        render_block(tmp_path, ["install"])
