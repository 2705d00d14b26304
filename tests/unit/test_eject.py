"""The ejected folder gives the same results, where there is no facezoo."""

import dataclasses
import errno
import importlib.util
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import onnx
import pytest
import yaml
from facezoo.backends.ort import OrtBackend
from facezoo.card import Preprocess
from facezoo.cli import eject as cli
from facezoo.cli.main import main
from facezoo.contract import Contract, read_contract
from facezoo.deploy.eject import EJECTED_FILES, bundle, eject, to_json
from facezoo.errors import GraphError, InputError
from facezoo.image.crop import SquareCrop
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models import CARDS
from facezoo.models.pfld import decode as pfld
from facezoo.models.pipnet import decode as pipnet
from facezoo.models.scrfd import decode as scrfd
from facezoo.testing import tiny_pfld, tiny_pipnet, tiny_scrfd
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

FAKE_CARD = Path(__file__).with_name("fake_vaststreamx.py")
# Started so, a script finds no facezoo, whatever is installed.
ALONE = "import sys, runpy; sys.modules['facezoo'] = None; del sys.argv[0]; "
ALONE += "sys.path.insert(0, '.'); runpy.run_path(sys.argv[0], run_name='__main__')"
BRIGHT = np.full((75, 131, 3), 20, np.uint8)
BRIGHT[20:45, 60:90] = (250, 230, 210)
FACE = cv2.resize(BRIGHT, (112, 112))


def run_alone(folder, *words, **environment):
    command = [sys.executable, "-c", ALONE, *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PATH": "", **environment}
    )


def load_module(folder):
    spec = importlib.util.spec_from_file_location("facemodel", folder / "facemodel.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["facemodel"] = module  # Dataclasses look their module up.
    spec.loader.exec_module(module)
    return module


def recogniser(path, card_id):
    """Write a network (B, 3, 112, 112) to (B, n): means of a few channels and cells."""
    card = CARDS[card_id]
    size = card.outputs[0].channels
    weight = np.random.default_rng(3).normal(0, 1, (size, 3, 112, 112)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", [card.input_name, "weight"], ["map"]),
        helper.make_node("Flatten", ["map"], [card.outputs[0].name]),
    ]
    image = helper.make_tensor_value_info(card.input_name, TensorProto.FLOAT, ["b", 3, 112, 112])
    vector = helper.make_tensor_value_info(card.outputs[0].name, TensorProto.FLOAT, ["b", size])
    weights = [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "tiny", [image], [vector], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, str(path))
    return path, Contract.from_card(card)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eject")
    model = tiny_scrfd(folder / "tiny.onnx")
    write_image_rgb(folder / "bright.png", BRIGHT)
    words = ["eject", "scrfd_500m_bnkps", "--model", str(model), "--to", str(folder / "out")]
    assert main([*words, "--image", str(folder / "bright.png")]) == 0
    return folder / "out"


def test_without_a_file_the_published_weights_are_ejected(tmp_path, monkeypatch):
    model = tiny_scrfd(tmp_path / "tiny.onnx")
    asked = []
    monkeypatch.setattr(cli, "resolve", lambda *a, **given: asked.append((a, given)) or (model, ""))
    write_image_rgb(tmp_path / "bright.png", BRIGHT)
    words = ["eject", "scrfd_500m_bnkps", "--to", str(tmp_path / "out")]
    assert main([*words, "--image", str(tmp_path / "bright.png")]) == 0
    assert asked == [(("scrfd_500m_bnkps",), {"card": "scrfd_500m_bnkps"})]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == model.read_bytes()


def test_the_folder_is_whole_and_free_of_facezoo(detector):
    assert sorted(path.name for path in detector.iterdir()) == sorted(EJECTED_FILES)
    for script in detector.glob("*.py"):
        imported = [line for line in script.read_text().splitlines() if "import" in line]
        assert not [line for line in imported if "facezoo" in line or "from ." in line]
    assert yaml.safe_load((detector / "build.yaml").read_text())["frontend"]["checkpoint"] == (
        "model.onnx"
    )


@pytest.mark.parametrize("hw", [(64, 64), (64, 96)])
def test_the_compilers_files_are_those_of_the_graph(hw, tmp_path, monkeypatch, caplog):
    model = tiny_scrfd(tmp_path / "tiny.onnx", input_hw=hw)
    write_image_rgb(tmp_path / "bright.png", BRIGHT)
    words = ["eject", "scrfd_500m_bnkps", "--model", str(model), "--to", str(tmp_path / "out")]
    assert main([*words, "--image", str(tmp_path / "bright.png")]) == 0
    monkeypatch.chdir(tmp_path / "out")
    build = yaml.safe_load(Path("build.yaml").read_text())
    assert build["frontend"]["shape"] == {"input.1": [1, 3, *hw]}
    assert main(["compile", "build.yaml"]) == 0
    # No YAML expresses a letterbox that is not square.
    is_square = hw == (64, 64)
    assert ("no calibration images for int8" in caplog.text) == ("dataset" not in build)
    assert ("dataset" in build) == is_square
    if is_square:
        resize = next(op for op in build["dataset"]["process_ops"] if op["type"] == "Resize")
        assert resize["size"] == [64, -1]


def test_a_full_disk_leaves_no_part_of_the_folder(detector, tmp_path, monkeypatch, capsys):
    write_image_rgb(tmp_path / "bright.png", BRIGHT)
    words = ["eject", "scrfd_500m_bnkps", "--model", str(detector / "model.onnx")]
    words += ["--to", str(tmp_path / "out"), "--image", str(tmp_path / "bright.png")]
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out/model.onnx"))
        patch.setattr("facezoo.deploy.eject.read_file", mock.Mock(side_effect=full))
        assert main(words) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # What a killed start left is replaced, and nothing else.
    left = tmp_path / "out" / ".facezoo.abcdefgh"
    left.mkdir(parents=True)
    (left / "facemodel.py").write_text("half")
    (left / "mine.py").write_text("mine")
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (left / "mine.py").read_text() == "mine"
    (left / "mine.py").unlink()
    assert main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(EJECTED_FILES)


def test_it_checks_itself_without_facezoo(detector):
    done = run_alone(detector, "run_ort.py")
    assert (done.returncode, done.stdout) == (0, "sample.png: as expected\n"), done.stderr


def test_a_changed_expectation_is_noticed(detector, tmp_path):
    for file in detector.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "facemodel.py").read_text()
    (tmp_path / "facemodel.py").write_text(
        text.replace("SWAP_CHANNELS = False", "SWAP_CHANNELS = True")
    )
    done = run_alone(tmp_path, "run_ort.py")
    assert done.returncode == 1
    assert "expected" in done.stdout


def test_the_card_runner_gives_the_same_faces(detector, tmp_path):
    (tmp_path / "vaststreamx.py").write_bytes(FAKE_CARD.read_bytes())
    for suffix in (".json", ".params"):
        (tmp_path / f"mod{suffix}").write_text("")
    (tmp_path / "mod.so").write_bytes((detector / "model.onnx").read_bytes())
    done = run_alone(detector, "run_vsx.py", str(tmp_path / "mod"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    expected = json.loads((detector / "expected.json").read_text())["sample.png"]
    assert len(got["faces"]) == len(expected["faces"]) > 0
    np.testing.assert_allclose(
        got["faces"][0]["box_xyxy"], expected["faces"][0]["box_xyxy"], atol=0.5
    )


SIZES = [(64, 64), (31, 97), (101, 57), (1, 1)]


def same(folder, model, contract, room, sizes=SIZES):
    """The folder's tensors and results equal the package's, bit for bit."""
    module = load_module(folder)
    rng = np.random.default_rng(5)
    found = 0
    with OrtBackend(model, contract, threads=1) as backend:
        for hw in sizes:
            image = rng.integers(0, 256, (*hw, 3)).astype(np.uint8)
            image[hw[0] // 3 :, hw[1] // 3 :] //= 8
            tensor, ours = backend.operation(image)
            theirs, placement = module.preprocess(image)
            assert (theirs == tensor[None]).all()
            assert dataclasses.astuple(placement) == dataclasses.astuple(ours)
            raw = backend.infer(image)
            ours = room.decode(raw, **contract.decode)[0]
            result = module.postprocess(list(raw.arrays.values()), placement)
            assert module.to_json(result) == to_json(ours)
            found += len(str(to_json(ours)))
    assert found > 100


@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_detector_equals_the_package(anchor, tmp_path):
    model = tiny_scrfd(tmp_path / "tiny.onnx")
    contract = read_contract(model)
    preprocess = dataclasses.replace(contract.preprocess, anchor=anchor, pad_value=(9, 8, 7))
    contract = dataclasses.replace(contract, preprocess=preprocess)
    eject(model, contract, "", BRIGHT, tmp_path / "out")
    same(tmp_path / "out", model, contract, scrfd)


@pytest.mark.parametrize(("make", "room"), [(tiny_pipnet, pipnet), (tiny_pfld, pfld)])
def test_landmarks_equal_the_package(make, room, tmp_path):
    model = make(tmp_path / "tiny.onnx")
    contract = read_contract(model)
    eject(model, contract, "", BRIGHT, tmp_path / "out")
    same(tmp_path / "out", model, contract, room)


def test_the_square_crop_comes_with_its_network(tmp_path):
    model = tiny_pfld(tmp_path / "tiny.onnx")
    eject(model, read_contract(model), "", BRIGHT, tmp_path / "out")
    theirs = load_module(tmp_path / "out").SquareCrop.around((10, 20, 50, 90), (200, 300))
    ours = SquareCrop.around((10, 20, 50, 90), (200, 300))
    assert (theirs.cut(BRIGHT) == ours.cut(BRIGHT)).all()


@pytest.mark.parametrize("card_id", ["w600k_mbf", "magface_iresnet50", "sdd_fiqa_r50"])
def test_faces_equal_the_package(card_id, tmp_path):
    model, contract = recogniser(tmp_path / "tiny.onnx", card_id)
    room = importlib.import_module(f"facezoo.models.{contract.model}.decode")
    eject(model, contract, "", FACE, tmp_path / "out")
    same(tmp_path / "out", model, contract, room, sizes=[(112, 112)] * 4)
    points = np.array([[40, 50], [70, 52], [55, 70], [42, 90], [68, 91]], np.float32)
    module = load_module(tmp_path / "out")
    from facezoo.image.align import align_face

    image = np.random.default_rng(1).integers(0, 256, (120, 130, 3)).astype(np.uint8)
    assert (module.align_face(image, points) == align_face(image, points)).all()


@pytest.mark.parametrize("card_id", ["w600k_mbf", "sdd_fiqa_r50"])
def test_a_network_for_faces_refuses_a_whole_photo(card_id, tmp_path):
    model, contract = recogniser(tmp_path / "tiny.onnx", card_id)
    with pytest.raises(InputError, match=r"takes an aligned face of 112x112 pixels.* 131x75"):
        eject(model, contract, "", BRIGHT, tmp_path / "out")
    eject(model, contract, "", FACE, tmp_path / "out")
    module = load_module(tmp_path / "out")
    with pytest.raises(module.ImageError, match=r"takes an aligned face of 112x112.* has 131x75"):
        module.preprocess(BRIGHT)
    photo = tmp_path / "photo.png"
    write_image_rgb(photo, BRIGHT)
    (tmp_path / "vaststreamx.py").write_bytes(FAKE_CARD.read_bytes())
    for script in (["run_ort.py"], ["run_vsx.py", "mod"]):
        done = run_alone(tmp_path / "out", *script, str(photo), PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "--points" in done.stderr
        assert "--aligned" in done.stderr
    points = ["40", "50", "70", "52", "55", "70", "42", "90", "68", "91"]
    face = module.align_face(BRIGHT, np.reshape(points, (5, 2)).astype(np.float32))
    resized = module.fit(BRIGHT)
    with OrtBackend(model, contract, threads=1) as backend:
        room = importlib.import_module(f"facezoo.models.{contract.model}.decode")
        for image, words in ((face, ["--points", *points]), (resized, ["--aligned"])):
            done = run_alone(tmp_path / "out", "run_ort.py", str(photo), *words)
            wanted = to_json(room.decode(backend.infer(image), **contract.decode)[0])
            assert module.differences(wanted, json.loads(done.stdout)) == [], done.stderr


def test_what_cannot_be_ejected_is_refused(detector, tmp_path):
    model = detector / "model.onnx"
    contract = read_contract(model)
    with pytest.raises(InputError, match="not empty"):
        eject(model, contract, "", BRIGHT, detector)
    pillow = dataclasses.replace(contract.preprocess, resize="BILINEAR_PILLOW")
    with pytest.raises(InputError, match="BILINEAR_PILLOW"):
        eject(model, dataclasses.replace(contract, preprocess=pillow), "", BRIGHT, tmp_path / "a")
    none = Preprocess((64, 64), fit="none")
    with pytest.raises(InputError, match="none"):
        eject(model, dataclasses.replace(contract, preprocess=none), "", BRIGHT, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    words = ["eject", "scrfd_2.5g_bnkps", "--model", str(model), "--to", str(tmp_path / "a")]
    assert main(words) == 2


PLANTED = "__import__('os').mkdir('executed')"
PLANTS = {
    "pad_value": f"0, np.uint8)\n    {PLANTED}  # 00",
    "rounding": f'floor")\n{PLANTED}\n("',
    "anchor": f'center"\n{PLANTED}',
    "norm": f"EQUAL]\n{PLANTED}",
    "input_hw": [f"1)\n{PLANTED}\n(", 64],
    "mean": [f"0])\n{PLANTED}\n([", 0, 0],
}


@pytest.mark.parametrize("name", [*PLANTS, "card_id", "model"])
def test_code_in_a_contract_becomes_no_product(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(tiny_scrfd(tmp_path / "tiny.onnx"))
    (entry,) = model.metadata_props
    content = json.loads(entry.value)
    if name in PLANTS:
        content["preprocess"][name] = PLANTS[name]
    else:
        content[name] = f'x"""\n{PLANTED}\n"""'
    entry.value = json.dumps(content)
    onnx.save(model, "evil.onnx")
    write_image_rgb(tmp_path / "bright.png", BRIGHT)
    words = ["eject", "scrfd_500m_bnkps", "--model", "evil.onnx", "--to", "out"]
    assert main([*words, "--image", "bright.png"]) == 2
    said = capsys.readouterr().err
    assert "evil.onnx" in said and f"{name}" in said and "expected" in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [*PLANTS, "card_id", "model"])
def test_code_in_a_contract_made_by_hand_is_refused_too(name, tmp_path):
    model = tiny_scrfd(tmp_path / "tiny.onnx")
    contract = read_contract(model)
    if name in PLANTS:
        preprocess = dataclasses.replace(contract.preprocess, **{name: PLANTS[name]})
        contract = dataclasses.replace(contract, preprocess=preprocess)
    else:
        contract = dataclasses.replace(contract, **{name: f'x"""\n{PLANTED}\n"""'})
    with pytest.raises(GraphError, match=name):
        eject(model, contract, "", BRIGHT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", [f"'{PLANTED}'", f'"; {PLANTED} #', "\\", "\\N{DASH}", "{0} 名 😀"]
)
def test_names_of_any_kind_are_names_in_the_product(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(tiny_scrfd(tmp_path / "tiny.onnx"))
    (entry,) = model.metadata_props
    contract = Contract.from_metadata({entry.key: entry.value})
    old = contract.output_names[0]
    contract = dataclasses.replace(
        contract, input_name=name, output_names=(*contract.output_names, f"{name} ")
    )
    extra = model.graph.output.add()
    extra.CopyFrom(model.graph.output[0])
    extra.name = f"{name} "
    model.graph.node.append(helper.make_node("Identity", [old], [f"{name} "]))
    model.graph.input[0].name = name
    for node in model.graph.node:
        node.input[:] = [name if value == "input.1" else value for value in node.input]
    helper.set_model_props(model, contract.to_metadata())
    onnx.save(model, "odd.onnx")
    eject(tmp_path / "odd.onnx", contract, "", BRIGHT, tmp_path / "out")
    module = load_module(tmp_path / "out")
    assert (module.INPUT_NAME, tuple(module.OUTPUT_NAMES)) == (name, contract.output_names)
    assert not (tmp_path / "executed").exists()
    done = run_alone(tmp_path / "out", "run_ort.py")
    assert (done.returncode, done.stdout) == (0, "sample.png: as expected\n"), done.stderr
    assert not (tmp_path / "out" / "executed").exists()


def encoded(suffix):
    return cv2.imencode(suffix, NOISE)[1].tobytes()


def many_scans(count):
    """Return a progressive JPEG with its last scan so many times."""
    text = io.BytesIO()
    Image.new("L", (80, 80)).save(text, "JPEG", progressive=True)
    data = text.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


NOISE = np.random.default_rng(8).integers(0, 256, (60, 80, 3)).astype(np.uint8)
HUGE_PNG = bytearray(encoded(".png"))
HUGE_PNG[16:24] = (20_000).to_bytes(4, "big") * 2
HUGE_PNG[29:33] = zlib.crc32(HUGE_PNG[12:29]).to_bytes(4, "big")
PHOTO = cv2.imencode(".jpg", cv2.resize(NOISE, (640, 480)))[1].tobytes()
WEBP = cv2.imencode(".webp", cv2.resize(NOISE, (640, 480)))[1].tobytes()
DAMAGED = "is damaged; replace it by an intact copy"
BAD_FILES = {
    "hole.jpg": (PHOTO[:9000] + PHOTO[12000:], DAMAGED),
    "closed.jpg": (PHOTO[:9000] + b"\xff\xd9", DAMAGED),
    "zeros.jpg": (PHOTO[:9000] + bytes(400) + PHOTO[9400:], DAMAGED),
    "zeros.webp": (WEBP[: len(WEBP) // 2] + bytes(len(WEBP) // 2), DAMAGED),
    "cut.jpg": (encoded(".jpg")[:-400], "is truncated: the end of the image is missing"),
    "cut.png": (encoded(".png")[:-400], "is truncated: the end of the image is missing"),
    "cut.ppm": (encoded(".ppm")[:-400], ""),
    "scans.jpg": (many_scans(101), "has more than 100 scans, which take minutes to decode"),
    "page.jpg": (b"<!doctype html><html>not found</html>", "is not an image that can be read"),
    "empty.jpg": (b"", "is empty (0 bytes); expected an image"),
    "huge.png": (bytes(HUGE_PNG), "has more than 178 megapixels; reduce it"),
    "long.jpg": (None, "has more than 178 megapixels; reduce it"),
    "folder.jpg": (None, "is not a file; expected an image"),
    "gone.jpg": (None, "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("script", ["run_ort.py", "run_vsx.py"])
def test_the_product_refuses_what_is_no_image_in_one_sentence(detector, tmp_path, name, script):
    content, says = BAD_FILES[name]
    path = tmp_path / name
    if name == "folder.jpg":
        path.mkdir()
    elif name == "long.jpg":
        with path.open("wb") as file:
            file.truncate(800_000_000)
    elif content is not None:
        path.write_bytes(content)
    (tmp_path / "vaststreamx.py").write_bytes(FAKE_CARD.read_bytes())
    words = [script, *["mod"] * (script == "run_vsx.py"), str(path)]
    done = run_alone(detector, *words, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    # OpenCV may note on its own what it thinks of a file.
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{script}: {str(path)!r} ") and line.endswith(says)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".ppm", ".bmp", ".webp"])
def test_the_product_reads_what_is_whole(detector, tmp_path, suffix):
    path = tmp_path / f"whole{suffix}"
    path.write_bytes(encoded(suffix))
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert (load_module(detector).read_rgb(str(path)) == image[:, :, ::-1]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_product_turns_images_as_facezoo_does(detector, tmp_path, suffix, orientation):
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(NOISE[:, :10]).save(path, exif=exif.tobytes())
    assert (load_module(detector).read_rgb(str(path)) == read_image_rgb(path)).all()


@pytest.mark.parametrize(
    "image",
    [
        BRIGHT.astype(np.float32),
        BRIGHT[:, :, 0],
        BRIGHT[:, :, :2],
        BRIGHT[:0],
        BRIGHT[None],
        "photo.jpg",
        None,
    ],
)
def test_the_product_takes_images_of_one_kind(detector, image):
    module = load_module(detector)
    with pytest.raises(ValueError, match=r"an image must have shape \(H, W, 3\) and dtype uint8"):
        module.preprocess(image)


def changed(name, value):
    def change(module, outputs):
        index = module.OUTPUT_NAMES.index(name)
        outputs[index] = value(outputs[index].copy())

    return change


def filled(value):
    return lambda array: np.full_like(array, value)


BAD_OUTPUTS = {
    "too few": (lambda module, outputs: outputs.pop(), "the network has 8 outputs; expected 9"),
    "integers": (changed("bbox_8", lambda a: a.astype(np.int32)), "'bbox_8' is int32; expected fl"),
    "text": (changed("bbox_8", lambda a: a.astype(str)), "'bbox_8' is <U32; expected floating"),
    "another size": (changed("kps_8", lambda a: a[..., 1:]), "'kps_8' must have shape"),
    "no batch": (changed("score_8", lambda a: a[0]), "'score_8' must have shape"),
    "NaN scores": (changed("score_32", filled(np.nan)), "'score_32' holds NaN"),
    "infinite scores": (changed("score_32", filled(np.inf)), "'score_32' holds inf"),
    "NaN boxes": (changed("bbox_8", filled(np.nan)), "'bbox_.' are not finite"),
    "infinite landmarks": (changed("kps_8", filled(np.inf)), "'kps_.' are not finite"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_the_product_refuses_outputs_that_cannot_be_right(detector, case):
    change, says = BAD_OUTPUTS[case]
    module = load_module(detector)
    contract = read_contract(detector / "model.onnx")
    with OrtBackend(detector / "model.onnx", contract, threads=1) as backend:
        raw = backend.infer(BRIGHT)
    outputs = [raw.arrays[name] for name in module.OUTPUT_NAMES]
    assert len(module.postprocess(outputs, raw.placements[0]))
    change(module, outputs)
    with pytest.raises(module.DecodeError, match=says) as caught:
        module.postprocess(outputs, raw.placements[0])
    assert "\n" not in str(caught.value)


def test_gathering_names_what_it_cannot_do():
    with pytest.raises(InputError, match="no nothing_like_it"):
        bundle([("results", "nothing_like_it")])
    with pytest.raises(InputError, match=r"is defined in facezoo"):
        bundle([("models.scrfd.decode", "decode"), ("models.pipnet.decode", "decode")])


def test_the_sample_is_the_downloaded_astronaut(tmp_path, monkeypatch, capsys):
    model = tiny_scrfd(tmp_path / "tiny.onnx")
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("FACEZOO_OFFLINE", raising=False)
    words = ["eject", "scrfd_500m_bnkps", "--model", str(model), "--to", str(tmp_path / "out")]
    assert main(words) == 2
    assert "facezoo download astronaut" in capsys.readouterr().err


@pytest.mark.shared
def test_released_weights_give_the_same_faces(shared, tmp_path):
    from facezoo.models.scrfd.graph import export_released

    model = tmp_path / "scrfd.onnx"
    export_released(shared / "assets/scrfd/scrfd_500m_bnkps.onnx", model)
    photo = read_image_rgb(shared / "assets/photos/src_meeting.jpg")
    eject(model, read_contract(model), "", photo, tmp_path / "out")
    assert len(json.loads((tmp_path / "out/expected.json").read_text())["sample.png"]["faces"]) == 5
    done = run_alone(tmp_path / "out", "run_ort.py")
    assert (done.returncode, done.stdout) == (0, "sample.png: as expected\n"), done.stderr
