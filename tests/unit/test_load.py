"""The one way to open a model: every form of a spec, what is prepared, and what is refused."""

import errno
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import facezoo
import numpy as np
import onnx
import pytest
from facezoo import (
    FaceDetector,
    FaceEmbedder,
    FaceQuality,
    LandmarkDetector,
    RuntimeOptions,
    load,
    weights,
)
from facezoo.artifact import BuildInfo, write_artifact
from facezoo.cli.main import build_parser, main
from facezoo.contract import METADATA_KEY, read_contract
from facezoo.errors import CardError, GraphError, InputError, WeightsMissing
from facezoo.files import sha256_of
from facezoo.models import CARDS, WEIGHTS
from facezoo.pipeline.load import resolve
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa

# ``facezoo.load`` is the function; this is the module that holds it.
module = importlib.import_module("facezoo.pipeline.load")
TINY = {
    FaceDetector: tiny_scrfd,
    LandmarkDetector: tiny_pipnet,
    FaceQuality: tiny_sdd_fiqa,
    FaceEmbedder: tiny_magface,
}
FACE = np.arange(112 * 112 * 3, dtype=np.uint32).reshape(112, 112, 3).astype(np.uint8)


def without_contract(path):
    model = onnx.load(str(path))
    del model.metadata_props[:]
    bare = path.with_name(f"bare_{path.name}")
    onnx.save(model, str(bare))
    return bare


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    module._scratch.cache_clear()
    return tmp_path / "home"


@pytest.fixture
def released(tmp_path, home, monkeypatch):
    """A file as authors publish them, which the zoo knows as w600k_mbf's and does not have."""
    path = without_contract(tiny_magface(tmp_path / "made.onnx", card_id="w600k_mbf"))
    facts = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    monkeypatch.setitem(WEIGHTS, "w600k_mbf", replace(WEIGHTS["w600k_mbf"], **facts))
    return path


@pytest.fixture
def at_home(released, home):
    home.mkdir()
    (home / "w600k_mbf.onnx").write_bytes(released.read_bytes())
    return home


def vector_of(spec, **options):
    with load(spec, **options) as model:
        return model(FACE).vector


# What can be opened -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TINY)
def test_the_model_comes_from_the_file(tmp_path, kind):
    path = TINY[kind](tmp_path / "tiny.onnx")
    for spec in (path, str(path), f"{path}@ort"):
        with load(spec) as model:
            assert type(model) is kind
        load(spec, kind=kind).close()


def test_an_artifact_is_opened_by_its_prefix(tmp_path):
    model = tiny_scrfd(tmp_path / "tiny.onnx")
    prefix = tmp_path / "deploy_weights" / "tiny_fp16" / "mod"
    contract = read_contract(model)
    build = BuildInfo(
        name="tiny_fp16",
        dtype="fp16",
        arithmetic="",
        source=str(model),
        source_sha256=sha256_of(model),
        card=contract.card_id,
        inputs={"input": (1, 3, 64, 64)},
        outputs=contract.output_names,
    )
    write_artifact(prefix, model.read_bytes(), build)
    with load(prefix) as detector:
        assert type(detector) is FaceDetector
        assert detector.backend.model == prefix.with_name("mod.onnx")
    assert resolve(f"{prefix}@ort") == (prefix, "ort")
    for folder, given in ((prefix.parent, prefix), (prefix.parent.parent, prefix)):
        with pytest.raises(InputError, match=f"is a folder; .*give '{given}'"):
            load(folder)
    with pytest.raises(InputError, match=f"is a folder; .*give '{model}'"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is a folder; .*there is none in it"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match=f"one of the files of an artifact; .*prefix: {prefix}"):
        load(prefix.with_name("mod.build.json"))


def test_a_card_is_prepared_once_and_kept(at_home, released, monkeypatch):
    expected = vector_of(released.with_name("made.onnx"))
    np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)
    (kept,) = (at_home / "graphs").iterdir()
    assert kept.stem.endswith(sha256_of(kept)[:12])
    assert read_contract(kept).source_sha256 == sha256_of(released)
    monkeypatch.setattr(module, "_raw_heads", None)  # It would fail if it were called again.
    np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)
    # The authors' file is known wherever it lies, and so is what was made of it.
    np.testing.assert_array_equal(vector_of(released), expected)
    assert resolve("w600k_mbf@ort") == (kept, "ort")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"x", bytes])
def test_a_damaged_graph_is_made_anew(at_home, damage, caplog):
    expected = vector_of("w600k_mbf")
    (kept,) = (at_home / "graphs").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole) if damage is not bytes else b"")
    np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)
    assert kept.read_bytes() == whole
    assert f"{kept} is damaged and is made again" in caplog.text


def test_a_home_that_keeps_nothing_does_no_harm(at_home, released, caplog, monkeypatch):
    (at_home / "graphs").write_text("a file where the folder should be")
    expected = vector_of(released.with_name("made.onnx"))
    np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)
    assert "is prepared for this process only; point FACEZOO_HOME at" in caplog.text
    assert sorted(path.name for path in at_home.iterdir()) == ["graphs", "w600k_mbf.onnx"]
    monkeypatch.setattr(module, "_raw_heads", None)
    np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)


def test_exchanged_graphs_are_noticed(at_home, caplog):
    vector_of("w600k_mbf")
    (kept,) = (at_home / "graphs").iterdir()
    whole = kept.read_bytes()
    # A network that is whole, and has the contract, but is another one.
    other = onnx.load_from_string(whole)
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    kept.write_bytes(other.SerializeToString())
    assert np.linalg.norm(vector_of("w600k_mbf")) > 0
    assert kept.read_bytes() == whole
    assert caplog.text.count("is damaged and is made again") == 1


def test_a_damaged_graph_in_a_read_only_home_is_said_once(at_home, caplog, monkeypatch):
    expected = vector_of("w600k_mbf")
    (kept,) = (at_home / "graphs").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    written = module.write_hashed

    def write(folder, *words):
        if at_home in folder.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        return written(folder, *words)

    monkeypatch.setattr(module, "write_hashed", write)
    for _ in range(3):
        np.testing.assert_array_equal(vector_of("w600k_mbf"), expected)
    assert caplog.text.count("is damaged and is made again") == 1
    said = "cannot be written (Read-only file system), so w600k_mbf is prepared for this process"
    assert caplog.text.count(said) == 1
    assert kept.stat().st_size == 1000 and not list(at_home.glob("**/*.tmp"))


def test_weights_are_fetched_and_what_they_are_is_said(released, home, monkeypatch, caplog):
    def fetch(name):
        home.mkdir()
        (home / "w600k_mbf.onnx").write_bytes(released.read_bytes())
        return weights.find(name)

    monkeypatch.setenv("FACEZOO_OFFLINE", "1")
    with pytest.raises(WeightsMissing, match="FACEZOO_OFFLINE=1 forbids downloads"):
        load("w600k_mbf")
    assert caplog.text == ""
    monkeypatch.setenv("FACEZOO_OFFLINE", "0")
    monkeypatch.setattr(weights, "fetch", fetch)
    load("w600k_mbf").close()
    size = f"{released.stat().st_size / 1e6:.1f} MB"
    said = f"fetching w600k_mbf.onnx, {size}, licence: {WEIGHTS['w600k_mbf'].licence}"
    assert said in caplog.text


def test_a_file_without_a_contract_may_be_named(tmp_path):
    bare = without_contract(tiny_magface(tmp_path / "tiny.onnx"))
    with load(bare, card="magface_iresnet50") as model:
        assert model.contract.card_id == "magface_iresnet50"
    with pytest.raises(InputError, match="make it self-describing: facezoo export CARD"):
        load(bare)
    with pytest.raises(CardError, match="did you mean magface_iresnet50"):
        load(bare, card="magface_iresnet5")
    with pytest.raises(InputError, match="is a FaceDetector; expected a FaceEmbedder"):
        load(bare, card="scrfd_1g", kind=FaceEmbedder)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("card_id", "file", "kind"),
    [
        ("scrfd_500m_bnkps", "scrfd/scrfd_500m_bnkps.onnx", FaceDetector),
        ("w600k_mbf", "recognition/w600k_mbf.onnx", FaceEmbedder),
    ],
)
def test_the_published_files(shared, home, card_id, file, kind):
    path = shared / "assets" / file
    with load(path) as model:
        assert type(model) is kind
        assert model.contract.card_id == card_id
    (home / path.name).symlink_to(path)
    assert resolve(card_id) == resolve(path)
    with pytest.raises(GraphError, match=f"is {card_id}, not "):
        load(path, card="scrfd_2.5g_bnkps" if card_id == "w600k_mbf" else "w600k_mbf")


# How it is opened ---------------------------------------------------------------------------------


def changed(path, change):
    """Rewrite the contract of a graph."""
    model = onnx.load(path)
    (entry,) = [one for one in model.metadata_props if one.key == METADATA_KEY]
    contract = json.loads(entry.value)
    change(contract)
    entry.value = json.dumps(contract)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("preprocess", {"color_conversion": "RGB2BGR"}, "BGR order"),
        ("preprocess", {"mean": [0, 0, 0], "std": [1, 1, 1]}, "normalisation"),
        ("preprocess", {"fit": "stretch"}, "fit 'stretch'"),
        ("preprocess", {"pad_value": [1, 2, 3]}, "pad_value"),
        ("decode", {"anchors_per_cell": 1}, "anchors_per_cell 1, the model expects 2"),
        ("decode", {"strides": [4, 8, 16]}, "strides [4, 8, 16]"),
    ],
)
def test_a_contract_unlike_its_card_is_named(tmp_path, caplog, capsys, part, changes, says):
    path = tiny_scrfd(tmp_path / "odd.onnx")
    facezoo.load(path).close()
    assert "differs from that card" not in caplog.text
    changed(path, lambda contract: contract[part].update(changes))
    facezoo.load(path).close()
    assert "odd.onnx' says it is scrfd_500m_bnkps, but its contract differs" in caplog.text
    assert says in caplog.text
    if part == "decode":
        main(["doctor", "--model", str(path)])
        assert says in capsys.readouterr().out


def test_the_engine_behind_the_spec_wins(tmp_path):
    pytest.importorskip("openvino")
    path = tiny_scrfd(tmp_path / "me@home" / "tiny.onnx")  # An @ in a path names no engine.
    with load(f"{path}@openvino", runtime=RuntimeOptions(engine="ort", threads=1)) as model:
        assert (model.backend.name, model.backend.threads) == ("openvino", 1)
    with load(path, runtime=RuntimeOptions(engine="openvino")) as model:
        assert model.backend.name == "openvino"
    with pytest.raises(InputError, match=r"no \.so, \.json and \.params for engine 'vsx'"):
        load(f"{path}@vsx")
    with pytest.raises(InputError, match="engine 'tpu' is not known; expected one of auto, ort"):
        load("scrfd_500m_bnkps@tpu")


class Careful(FaceDetector):
    """A detector of a user's own."""


def test_a_subclass_is_made_where_it_is_asked_for(tmp_path):
    path = tiny_scrfd(tmp_path / "tiny.onnx")
    with load(path, kind=Careful, profile="eval") as model:
        assert type(model) is Careful
        assert model.profile.score_threshold == 0.02
    with pytest.raises(InputError, match="expected a Careful, a model of scrfd"):
        load(tiny_pipnet(tmp_path / "p.onnx"), kind=Careful)


def test_another_kind_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "find", None)
    with pytest.raises(InputError, match="'w600k_mbf' is a FaceEmbedder; expected a FaceDetector"):
        load("w600k_mbf", kind=FaceDetector)
    path = tiny_scrfd(tmp_path / "tiny.onnx")
    with pytest.raises(
        InputError, match=r"holds scrfd_500m_bnkps, a FaceDetector; .* a FaceQuality, .*sdd_fiqa"
    ):
        load(path, kind=FaceQuality)


def test_options_are_the_models_own(tmp_path):
    path = tiny_scrfd(tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match=r"'flip' .* a FaceDetector, which takes profile, fast_de"):
        load(path, flip="sum")
    with pytest.raises(InputError, match=r"'provider' is not an option .*runtime=RuntimeOptions"):
        load(tiny_sdd_fiqa(tmp_path / "q.onnx"), provider="cpu")


def test_the_old_form_works_and_says_what_is_new(tmp_path):
    path = tiny_scrfd(tmp_path / "tiny.onnx")
    with pytest.warns(DeprecationWarning, match=r"kind=facezoo\.FaceDetector") as caught:
        model = load("scrfd", path, threads=1, engine="ort", profile="eval")
    assert caught[0].filename == __file__
    with model, load(path, runtime=RuntimeOptions("ort", threads=1), profile="eval") as new:
        assert model.backend.threads == 1
        assert model.settings() == new.settings()
    with pytest.raises(InputError, match="model 'yolo' is not known; expected one of"):
        load("yolo", path)
    with pytest.warns(DeprecationWarning), pytest.raises(InputError, match="a FaceDetector; exp"):
        load("magface", path)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("scrfd_500m_bnkp", "is not a model: it is not a card's id .did you mean scrfd_500m_bnkps"),
        (
            "nothing_like_it",
            'not a card\'s id, not an .onnx file, .*"facezoo list" shows the cards',
        ),
        ("deploy_weights/x/mod", r"no artifact at .*facezoo vamc compile"),
        ("gone.onnx", "'gone.onnx' is not there; expected a file, an artifact prefix or a card's"),
        ("scrfd_500m_bnkps.onnx", "is not there; .*did you mean scrfd_500m_bnkps"),
        ("pipnet_r18_wflw_98.onnx", "is not there; .*did you mean pip_resnet18"),
        ("pipnet_r18_wflw_98", "is a file of the card pip_resnet18: give 'pip_resnet18'"),
        ("astronaut", "'astronaut' is not a model"),
        ("magface_iresnet50", r"has no published \.onnx; .*facezoo export magface_iresnet50 "),
        ("mine.pth", "is a checkpoint; .*facezoo export CARD mine.pth --output"),
        (
            "w/magface_epoch_00025.pth",
            "export magface_iresnet100 w/magface_epoch_00025.pth --output",
        ),
        ("sdd_fiqa_r50_pth", "export sdd_fiqa_r50 SDD_FIQA_checkpoints_r50.pth --output"),
        ("text.txt", "is not a model; expected an .onnx file, an artifact prefix or a card's id"),
        ("broken.onnx", "broken.onnx' is not a valid ONNX graph"),
    ],
)
def test_what_cannot_be_opened_says_what_helps(tmp_path, monkeypatch, spec, says):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("no model")
    Path("broken.onnx").write_bytes(b"no graph")
    with pytest.raises((InputError, GraphError), match=says):
        load(spec)
    assert not Path("home").exists()


def test_a_kind_names_its_cards(tmp_path):
    bare = without_contract(tiny_sdd_fiqa(tmp_path / "tiny.onnx"))
    command = "facezoo export sdd_fiqa_r50"
    with pytest.raises(InputError, match=f"carries no contract, .*{command}"):
        load(bare, kind=FaceQuality)
    with pytest.raises(InputError, match=f"none can be added to a sdd_fiqa; .*{command} SDD"):
        load(bare, card="sdd_fiqa_r50")
    with pytest.raises(InputError, match=f"mine.pth' is a checkpoint; .*{command}"):
        load("mine.pth", kind=FaceQuality)


@pytest.mark.parametrize("card_id", CARDS)
def test_the_command_that_is_named_is_one_that_works(card_id):
    """Where a card has no published ONNX, the error names the export as it is."""
    command = module._export_command(CARDS[card_id]).split()
    args = build_parser("export").parse_args(command[1:])
    assert (args.card, args.output) == (card_id, Path(f"onnx/{card_id}.onnx"))


# What an editor and a type checker see ------------------------------------------------------------


def test_the_package_names_what_it_has():
    for name in facezoo.__all__:
        assert name in dir(facezoo)
        assert getattr(facezoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        facezoo.lod  # noqa: B018


def test_importing_stays_light():
    code = "import facezoo, sys; dir(facezoo); print([m for m in HEAVY if m in sys.modules])"
    code = code.replace("HEAVY", "('numpy', 'cv2', 'onnx', 'onnxruntime', 'facezoo.models')")
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


PROGRAM = """
import facezoo
import numpy as np
from facezoo import FaceEmbedder, RuntimeOptions
from pathlib import Path

image = np.zeros((4, 4, 3), np.uint8)
detector = facezoo.load("scrfd_500m_bnkps")
reveal_type(detector)
reveal_type(detector(image))
reveal_type(facezoo.load("pip_resnet18", runtime=RuntimeOptions(threads=1)))
reveal_type(facezoo.load("sdd_fiqa_r50"))
reveal_type(facezoo.load("w600k_mbf", flip="sum"))
reveal_type(facezoo.load("deploy_weights/x/mod@ort", kind=FaceEmbedder))
reveal_type(facezoo.load("deploy_weights/x/mod"))
with facezoo.load("mod", kind=FaceEmbedder) as embedder:
    reveal_type(embedder)
reveal_type(detector(["one.jpg", "two.jpg"]))
detector("one.jpg").draw("one.jpg").save("boxes.jpg")
predictor = facezoo.Predictor(detector="scrfd_500m_bnkps", embedder="w600k_mbf")
reveal_type(predictor(image, bgr=True)[0].embedding.cosine)
for photo in predictor.stream([image, image]):
    reveal_type(photo)
    if isinstance(photo, facezoo.ImageError):
        print(photo.source, photo)
        continue
    for face in photo:
        print(photo.source, face.box_xyxy, face.score)
for faces in detector.stream([Path("one.jpg")]):
    if not isinstance(faces, facezoo.ImageError):
        print(faces.to_dict(), faces.to_pandas(), faces.to_supervision(), faces[0].landmarks_xy)
"""
REVEALED = (
    "facezoo.models.scrfd.model.FaceDetector",
    "facezoo.results.FaceDetections",
    "facezoo.models.pipnet.model.LandmarkDetector",
    "facezoo.models.sdd_fiqa.model.FaceQuality",
    "facezoo.models.magface.model.FaceEmbedder",
    "facezoo.models.magface.model.FaceEmbedder",
    "facezoo.models.base.FaceModel[Any]",
    "facezoo.models.magface.model.FaceEmbedder",
    "list[facezoo.results.FaceDetections]",
    "def (other: facezoo.results.Embedding) -> float",
    "facezoo.pipeline.photo.PredictedPhoto | facezoo.errors.ImageError",
)
# The same types as pyright writes them.
PYRIGHT_REVEALED = [
    "FaceDetector",
    "FaceDetections",
    "LandmarkDetector",
    "FaceQuality",
    "FaceEmbedder",
    "FaceEmbedder",
    "FaceModel[Any]",
    "FaceEmbedder",
    "List[FaceDetections]",
    "(other: Embedding) -> float",
    "PredictedPhoto | ImageError",
]


@pytest.mark.slow
def test_a_type_checker_knows_what_comes_back(tmp_path, repository):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ["--strict", "--follow-imports", "silent", "--config-file", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(repository / "common")},
        capture_output=True,
        text=True,
    )
    notes = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(notes) == REVEALED


def test_pyright_accepts_the_program(tmp_path, repository):
    pytest.importorskip("basedpyright", reason="basedpyright is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(repository / "common")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout)["generalDiagnostics"]
    assert [one["message"] for one in said if one["severity"] != "information"] == []
    types = [re.findall(r'"(.+?)"', one["message"])[-1] for one in said]
    assert types == PYRIGHT_REVEALED


def test_a_mean_face_of_ones_own_is_named_in_short(tmp_path, caplog):
    path = tiny_pipnet(tmp_path / "own.onnx")
    face = [[0.25 + index / 250, 0.25 + index % 7 / 100] for index in range(98)]
    changed(path, lambda contract: contract["decode"].update(meanface=face))
    facezoo.load(path).close()
    assert "meanface [[0.25, 0.25], … 98 in all], the model expects 'WFLW'" in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 500
