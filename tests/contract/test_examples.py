"""Every example of a help runs, in one folder with the files that the examples name.

Networks and images are tiny. The examples of a verb run one after the other in a copy of the
folder, since some of them read what those above wrote.
"""

import importlib
import importlib.util
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import facezoo
import numpy as np
import pytest
from facezoo import __version__, models
from facezoo.cli.main import VERBS, build_parser, main
from facezoo.contract import read_contract
from facezoo.datasets.wflw import NormalisedList, write_normalised_list
from facezoo.deploy.recipes import lay_out
from facezoo.files import DIGITS, sha256_of, write_hashed
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.models.pipnet.decode import load_meanface
from facezoo.results import Landmarks
from facezoo.testing import tiny_magface, tiny_pfld, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa
from fault_table import (
    released_scrfd,
    small_sets,
    verification_sets,
    wflw_on_wider,
    widerface,
    widerface_archives,
)
from test_flags import examples, walk

CHECKPOINT = "reads a checkpoint of 250 MB; tests/models export small ones"
CONNECTION = "needs a connection"
ENVIRONMENT = "changes the environment; test_toolchain.py runs it in a new one"
RENDERED = "is about the repository; test_rendered.py runs it"
NOT_RUN = {
    "facezoo demo --to .demo": CONNECTION,
    "facezoo docs": RENDERED,
    "facezoo docs --check": RENDERED,
    "facezoo download --all": CONNECTION,
    "facezoo export magface_iresnet50 magface_epoch_00025.pth "
    "--output onnx/magface_iresnet50.onnx": CHECKPOINT,
    "facezoo evaluate scrfd --images WIDER_val/images --gt ground_truth "
    "--detector onnx/scrfd_500m_bnkps.onnx --output ledger --ledger ledger.json": "runs a network "
    "of free size a dozen times; test_evaluate.py runs a part of it",
    "facezoo evaluate clusters --tables run --threshold 0.4": "needs photos that were scored; "
    "test_cluster.py runs it",
    "facezoo evaluate identification --tables run --fpir 0.1": "needs photos that were scored; "
    "test_identify.py runs it",
    "facezoo prepare lfw --photos lfw --pairs lfw/pairs.txt": "needs the data set as published; "
    "test_protocols.py runs it with smaller counts",
    "facezoo render": RENDERED,
    "facezoo render --check": RENDERED,
    "facezoo score run run --embedder w600k_mbf --on ray:10.0.0.1:6379": "needs a cluster",
    "facezoo shims install": ENVIRONMENT,
    "facezoo shims remove": ENVIRONMENT,
    "facezoo vacc selftest 'deploy_weights/*/mod' --output facezoo-selftest.json": "needs a "
    "device; test_selftest.py runs it on a simulator",
}
NEEDS = {
    "facezoo compare x.onnx x.onnx@openvino --images photos/": "openvino",
    "facezoo info --record face_detection/scrfd/counts.json scrfd_1g scrfd_34g": "torch",
    "facezoo info scrfd_2.5g --size 480x640": "torch",
    "facezoo predict photo.jpg --output out --landmarks onnx/pip_resnet18.onnx "
    "--quality deploy_weights/sdd_fiqa/mod@openvino --profile quality.json": "openvino",
}


def examples_of(verb):
    """Return the examples in the help of a verb and of its parts."""
    top = build_parser(verb)._subparsers._group_actions[0].choices[verb]
    found = []
    for parser in (top, *(part for _, part in walk(top))):
        found += [words for words in examples(parser.description) if words not in found]
    return [words for words in found if "--help" not in words and "..." not in "".join(words)]


# The folder ---------------------------------------------------------------------------------------


def photo(path, index=0, size=(50, 70)):
    """Write a dark image with a bright square, which the tiny detector takes for faces."""
    image = np.random.default_rng(index).integers(0, 60, (*size, 3), np.uint8)
    left = 10 * index % 58
    image[20:32, left : left + 12] = 250
    write_image_rgb(path, image)


def people(folder, count, side):
    """Write ten images of each person: a texture, with a little noise where it fills the image."""
    rng = np.random.default_rng(3)
    aligned, top = side == 112, (112 - side) // 2
    for person in range(count):
        texture = rng.integers(60 if aligned else 190, 240, (4, 4, 3))
        face = np.kron(texture, np.ones((side // 4, side // 4, 1)))
        for index in range(10):
            image = np.full((112, 112, 3), 20, np.uint8)
            image[:2] += np.uint8(index)
            image[top : top + side, top : top + side] = face + aligned * rng.normal(
                0, 1, face.shape
            )
            write_image_rgb(folder / f"p{person:02}" / f"{index}.png", image)


def networks(folder):
    tiny_scrfd(folder / "x.onnx")
    tiny_scrfd(folder / "onnx/scrfd_500m_bnkps.onnx")
    tiny_pipnet(folder / "onnx/pip_resnet18.onnx")
    tiny_pfld(folder / "onnx/pfld_ghostone.onnx")
    tiny_magface(folder / "onnx/magface_iresnet50.onnx", card_id="magface_iresnet50")
    tiny_sdd_fiqa(folder / "quality.onnx")


def builds(folder):
    scrfd = "../build_in/build/official_scrfd.yaml"
    quality = "../../../face_quality/sdd_fiqa/build_in/build/sdd_fiqa.yaml"
    for name, yaml, *more in (
        ("official_scrfd_fp16", scrfd),
        ("official_scrfd_fp32", scrfd, "--dtype", "fp32"),
        ("scrfd", scrfd, "--dtype", "fp32"),
        ("x_fp32", scrfd, "--model", "x.onnx", "--dtype", "fp32"),
        ("x_int8", scrfd, "--model", "x.onnx", "--dtype", "int8"),
        ("x", quality, "--model", "quality.onnx", "--dtype", "fp32"),
        ("sdd_fiqa", quality, "--model", "quality.onnx", "--dtype", "fp32"),
    ):
        assert run("compile", yaml, "--name", name, *more, "--images", "held_out") == 0


def outputs():
    """Run the npz route, whose outputs some verbs read."""
    assert (
        run(*"image2npz --dataset_path photos --target_path npz --text_path list.txt".split()) == 0
    )
    for output in ("output", "vamp_out"):
        model = "deploy_weights/official_scrfd_fp16/mod"
        assert run("vamp", "-m", model, "--datalist", "list.txt", "--path_output", output) == 0


def observed(folder):
    """Write what a user's program computed from ``photo.jpg``."""
    image = read_image_rgb(folder / "photo.jpg")
    contract = read_contract(folder / "onnx/scrfd_500m_bnkps.onnx")
    tensor, _ = VdspOperation(contract.preprocess)(image)
    np.savez(folder / "my_input.npz", x=tensor[None])
    found = facezoo.Predictor("scrfd_500m_bnkps", embedder="w600k_mbf")(image)
    np.savez(folder / "my_embedding.npz", x=found[0].embedding.vector)
    vdsp = next((folder.parent / "build_in/vdsp_params").glob("*500m_bnkps*.json"))
    (folder / "my.json").write_text(vdsp.read_text("utf-8").replace("640", "64"), "utf-8")


def detection_sets(folder):
    widerface(folder)
    (folder / "truth").rename(folder / "ground_truth")
    (folder / "runstream_output").mkdir()
    (folder / "predictions").rename(folder / "runstream_output/txt")
    for index, text in enumerate(sorted((folder / "runstream_output/txt").rglob("*.txt"))):
        event = folder / "WIDER_val/images" / text.parent.name
        photo(event / f"{text.stem}.jpg", index)


def landmark_sets(folder):
    points = load_meanface("WFLW", 10).points_xy
    names = tuple(f"wflw_test_{number:04d}.jpg" for number in range(4))
    write_normalised_list(folder / "WFLW/test.txt", NormalisedList(names, np.stack([points] * 4)))
    ones = np.ones(98, np.float32)
    found = [
        {"path": f"images_test/{name}", **Landmarks(place, ones, (100, 100)).to_dict()}
        for name, place in zip(names, np.float32(100 * np.stack([points] * 4)))
    ]
    content = {"schema": "facezoo.landmarks/1", "crop": "annotation", "images": found}
    (folder / "runstream_output/results.json").write_text(json.dumps(content))
    (folder / "raw").mkdir()
    wflw_on_wider(folder / "raw")
    for name, known in (("wider", "widerface"), ("lists", "WFLW_annotations")):
        (folder / "raw" / name).rename(folder / known)
    sets = ("--wider", "widerface", "--lists", "WFLW_annotations")
    assert run("prepare", "wflw-wider", *sets, "--to", "wflw") == 0


def recognition_sets(folder):
    for name in ("Ann", "Bob", "Cid"):
        for number in (1, 2):
            photo(folder / f"lfw/{name}/{name}_{number:04}.jpg", number + ord(name[0]))
    pairs = ("2\t1", "Ann\t1\t2", "Ann\t1\tBob\t1", "Bob\t1\t2", "Bob\t1\tCid\t1")
    (folder / "lfw/pairs.txt").write_text("".join(f"{pair}\n" for pair in pairs))
    people(folder / "people", 20, 64)
    people(folder / "faces", 15, 112)
    lines = [f"people/p0{n}/0.png people/p0{n}/{n + 1}.png 1\n" for n in range(5)]
    lines += [f"people/p0{n}/0.png people/p0{n + 1}/0.png 0\n" for n in range(4)]
    (folder / "pairs.txt").write_text("".join(lines))
    photo(folder / "aligned_face.png", size=(112, 112))
    names = [path.relative_to(folder / "faces").as_posix() for path in folder.glob("faces/*/*")]
    rng = np.random.default_rng(5)
    (folder / "labels/test").mkdir(parents=True)
    vectors = rng.normal(0, 1, (len(names), 8)).astype(np.float32)
    np.savez(folder / "labels/test/embeddings.npz", names=np.array(names), vectors=vectors)
    images = [
        {"path": name, "quality": float(value)} for name, value in zip(names, rng.random(150))
    ]
    (folder / "infer_output").mkdir()
    (folder / "infer_output/results.json").write_text(json.dumps({"images": images}))


def archives(folder):
    """Write data sets as they are downloaded."""
    (folder / "archives").mkdir()
    widerface_archives(folder / "archives")
    for name, member in (("photos.zip", "WIDER_val.zip"), ("truth.zip", "eval_tools.zip")):
        (folder / "archives" / name).rename(folder / member)
    verification_sets(folder)
    (folder / "sets.tar").rename(folder / "lfw_cfp_agedb.tar")


def zoo(home):
    """Put tiny networks into a home as published files, and return what is published of them."""
    released_scrfd(home)
    (home / "released.onnx").rename(home / "scrfd_500m_bnkps.onnx")
    tiny_magface(home / "w600k_mbf.onnx")
    photo(home / "astronaut.png", size=(300, 300))
    files = {}
    for name in ("scrfd_500m_bnkps", "w600k_mbf", "astronaut"):
        path = home / models.WEIGHTS[name].file
        size, sha256 = path.stat().st_size, sha256_of(path)
        files[name] = replace(models.WEIGHTS[name], size=size, sha256=sha256)
    # The released SCRFD can be exported; what finds faces is made already.
    stem = f"scrfd_500m_bnkps-{__version__}-{files['scrfd_500m_bnkps'].sha256[:DIGITS]}"
    tiny = tiny_scrfd(home / "tiny.onnx").read_bytes()
    (home / "tiny.onnx").unlink()
    write_hashed(home / "graphs", stem, ".onnx", tiny)
    return files


def run(*words):
    try:
        return main(list(words))
    except SystemExit as end:
        return end.code or 0


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """Let the tiny networks be the published ones, and measure speed for a moment only."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("home")
    patch.setenv("FACEZOO_HOME", str(home))
    for name, file in zoo(home).items():
        patch.setitem(models.WEIGHTS, name, file)
    for module, name in (("bench", "ROW_SECONDS"), ("vamp", "DEFAULT_SECONDS")):
        patch.setattr(importlib.import_module(f"facezoo.cli.{module}"), name, 0.1)
    with small_sets():
        yield patch
    patch.undo()


@pytest.fixture(scope="module")
def place(around, tmp_path_factory):
    """Lay out everything that the examples name around a recipe's workspace."""
    clone = tmp_path_factory.mktemp("clone")
    for model in ("scrfd", "sdd_fiqa"):
        lay_out(model, clone)
    folder = clone / "face_detection/scrfd/workspace"
    around.chdir(folder)
    build = Path("../build_in/build/official_scrfd.yaml")
    text = (
        build.read_text("utf-8").replace("640", "64").replace("get_data_num: 50", "get_data_num: 5")
    )
    build.write_text(text, "utf-8")
    # A few borderline faces are a large share of so few.
    limits = "limits: {missed_share: 0.3, extra_share: 0.3}\n"
    build.with_suffix(".gate.yaml").write_text(limits, "utf-8")
    for name, count in (("photos", 3), ("held_out", 6), ("calibration", 5)):
        for index in range(count):
            photo(folder / name / f"{name}_{index}.jpg", index)
    for name in ("photo", "A", "B"):
        photo(folder / f"{name}.jpg")
    networks(folder)
    builds(folder)
    outputs()
    observed(folder)
    for make in (detection_sets, landmark_sets, recognition_sets, archives):
        make(folder)
    quality = ("--images", "faces", "--quality", "deploy_weights/sdd_fiqa/mod")
    assert run("calibrate", "quality", *quality, "--output", "quality.json") == 0
    if importlib.util.find_spec("faiss"):
        assert run("gallery", "create", "known", "people", "--embed-refused") == 0
    return clone


# The examples -------------------------------------------------------------------------------------


def missing(words):
    needs_gallery = (
        words[1] in ("cluster", "gallery") or "--gallery" in words or "identification" in words
    )
    package = "faiss" if needs_gallery else NEEDS.get(shlex.join(words))
    return package if package and importlib.util.find_spec(package) is None else None


def forget(words, folder):
    """Remove the results of an example before, which have other settings."""
    for flag, value in zip(words, words[1:]):
        if flag in ("--output", "--to", "--target_path", "--text_path", "--save_dir"):
            path = folder / value
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_examples_run(verb, place, tmp_path, monkeypatch, capfd):
    clone = shutil.copytree(place, tmp_path / "clone", symlinks=True)
    folder = clone / "face_detection/scrfd/workspace"
    monkeypatch.chdir(folder)
    left_out = {}
    for words in examples_of(verb):
        line = shlex.join(words)
        package = missing(words)
        if line in NOT_RUN or package:
            left_out[line] = NOT_RUN.get(line) or f"needs {package}"
            continue
        forget(words, folder)
        code = run(*words[1:])
        said = capfd.readouterr()
        assert code == 0, f"{line} ended with {code}: {said.out[-2000:]}{said.err[-2000:]}"
    if left_out:
        pytest.skip("; ".join(f"{line}: {why}" for line, why in left_out.items()))


def test_what_is_not_run_is_an_example():
    known = {shlex.join(words) for verb in VERBS for words in examples_of(verb)}
    assert set(NOT_RUN) - known == set()
    assert set(NEEDS) - known == set()
    assert len(NOT_RUN) * 5 < len(known)
