"""Both routes end in the same files: the runner; image2npz, vamp and npz_decode.

One test has every command as a process of its own, as a user has them; the others call them here.
"""

import contextlib
import io
import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.contract import read_contract
from facezoo.testing import tiny_scrfd
from facezoo.vacc.vdsp import render_vdsp

YAML = """
name: official_scrfd_fp32
frontend: {type: onnx, checkpoint: %s, shape: {input.1: [1, 3, %d, %d]}}
backend: {type: tvm_vacc, dtype: fp32}
workspace: {path: %s}
"""


class Route:
    """The commands, run in a folder; each returns what a finished process has."""

    def __init__(self, repository, folder, in_processes=False):
        recipe = repository / "face_detection/scrfd"
        self.folder = folder
        self.start = self._in_a_process if in_processes else self._here
        self.scripts = {
            "export": recipe / "source_code/export_onnx.py",
            "runner": recipe / "build_in/vsx/python/scrfd_vsx.py",
            "image2npz": repository / "common/utils/image2npz.py",
            "npz_decode": recipe / "build_in/decode/npz_decode.py",
            "npz_list": repository / "common/utils/npz_decode.py",
        }

    def __call__(self, name, *arguments, expect=0):
        ran = self.start(self.scripts.get(name), name, list(map(str, arguments)))
        assert ran.returncode == expect, f"{name}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def _in_a_process(self, script, name, arguments):
        start = [script] if script else ["-m", "facezoo.cli.main", name]
        command = [sys.executable, *start, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True)

    def _here(self, script, name, arguments):
        run = runpy.run_path(str(script))["main"] if script else main
        said, errors, before = io.StringIO(), io.StringIO(), Path.cwd()
        log = logging.StreamHandler(errors)
        logging.getLogger().addHandler(log)
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
                code = run(arguments if script else [name, *arguments])
        finally:
            os.chdir(before)
            logging.getLogger().removeHandler(log)
        return subprocess.CompletedProcess(arguments, code, said.getvalue(), errors.getvalue())

    def compile(self, onnx, size, dtype):
        yaml = self.folder / "official_scrfd.yaml"
        yaml.write_text(YAML % (onnx, *size, self.folder / "deploy_weights"))
        self("compile", yaml, "--dtype", dtype)
        return self.folder / "deploy_weights" / f"official_scrfd_{dtype}" / "mod"

    def image2npz(self, photos, expect=0):
        flags = ("--target_path", "input_npz", "--text_path", "list.txt")
        return self("image2npz", "--dataset_path", photos, *flags, expect=expect)

    def vamp(self, model, *flags, output, datalist="list.txt", expect=0):
        lists = ("--datalist", datalist, "--path_output", output)
        return self("vamp", "--engine", "ort", "-m", model, *flags, *lists, expect=expect)

    def decode(self, output, *flags, txt, datalist="list.txt", expect=0):
        lists = ("--vamp_datalist_path", datalist, "--vamp_output_dir", output)
        return self("npz_decode", "--txt", txt, *lists, *flags, expect=expect)

    def run(self, model, photos, *flags, save_dir, expect=0):
        model = ("--model_prefix_path", model, "--engine", "ort", "--retry_border", "0")
        where = ("--file_path", photos, "--save_dir", save_dir)
        return self("runner", *where, *model, *flags, expect=expect)

    def results(self, name):
        """Return the result files of a folder: everything but the run's own record."""
        folder = self.folder / name
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "run.json"
        }


@pytest.fixture(scope="module")
def make_route(repository):
    return partial(Route, repository)


@pytest.fixture
def route(make_route, tmp_path):
    return make_route(tmp_path)


def make_photos(folder, count=13):
    """Write pictures with bright squares, of many sizes, in two events."""
    rng = np.random.default_rng(11)
    for index in range(count):
        image = np.full((*rng.integers(40, 120, 2), 3), 12, np.uint8)
        for _ in range(3):
            y, x = rng.integers(0, 100, 2)
            image[y : y + 14, x : x + 14] = 250
        path = folder / f"{index % 2}--Event" / f"photo {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return folder


def count_faces(results):
    content = json.loads(results["results.json"])
    return sum(len(entry.get("faces", [])) for entry in content["images"])


@pytest.mark.parametrize(("dtype", "in_processes"), [("fp32", True), ("fp16", False)])
def test_both_routes_write_the_same_files(make_route, tmp_path, dtype, in_processes):
    route = make_route(tmp_path, in_processes)
    photos = make_photos(tmp_path / "photos")
    (photos / "0--Event" / "broken.png").write_bytes(b"no picture")
    onnx = tiny_scrfd(tmp_path / "tiny.onnx")
    model = route.compile(onnx, (64, 64), dtype)
    vdsp = tmp_path / "vdsp.json"
    vdsp.write_text(json.dumps(render_vdsp(read_contract(onnx).preprocess)))

    route.run(model, photos, "--vdsp_params_info", vdsp, save_dir="runner", expect=1)
    route.image2npz(photos, expect=1)
    # As the vendor's README has it: a stray p, and the size of the synthetic input.
    flags = ("--vdsp_params", vdsp, "-i", "2", "p", "2", "-b", "4", "-s", "[3,64,64]")
    ran = route.vamp(model, *flags, output="output")
    assert re.search(r"\(qps\): \d+\.\d\d\n", ran.stdout)
    assert "'p 2' without a dash" in ran.stderr
    seed = ("--input_image_dir", photos, "--model_size", "64", "64")
    route.decode("output", *seed, txt="decoded", expect=1)

    assert route.results("decoded") == route.results("runner")
    assert count_faces(route.results("runner")) > 6
    with np.load(tmp_path / "output/output_000000.npz") as loaded:
        assert loaded["output_0"].dtype == {"fp32": np.float32, "fp16": np.float16}[dtype]
    listed = route("npz_list", "--vamp_datalist_path", "list.txt", "--vamp_output_dir", "output")
    assert "output_000012.npz" in listed.stdout
    assert "13 outputs checked by their hashes" in listed.stdout


def test_photos_that_only_the_runner_tries_again_are_counted(route, tmp_path):
    photos = make_photos(tmp_path / "photos", 3)
    for name in ("dark", "dark too"):
        cv2.imwrite(str(photos / "0--Event" / f"{name}.png"), np.full((64, 64, 3), 5, np.uint8))
    onnx = tiny_scrfd(tmp_path / "tiny.onnx")
    route.image2npz(photos)
    route.vamp(onnx, output="output")
    lists = ("--vamp_datalist_path", "list.txt", "--vamp_output_dir", "output")
    said = route.decode("output", txt="decoded").stdout
    again = route.decode("output", txt="decoded").stdout
    of_all = route("npz_list", *lists, "--save_dir", "listed").stdout
    images = json.loads(route.results("decoded")["results.json"])["images"]
    without = [image["path"] for image in images if not image["faces"]]
    assert {"0--Event/dark.png", "0--Event/dark too.png"} <= set(without) and len(without) < 5
    for text in (said, again, of_all):
        assert f"{len(without)} of 5 photos have no face here, such as {without[0]!r}" in text
        assert "run scrfd_vsx.py" in text and "--retry_border 0" in text
    # The advice holds, and a profile without a border says nothing.
    route.run(onnx, photos, save_dir="same")
    assert route.results("same") == route.results("decoded")
    assert "no face here" not in route.decode("output", "--profile", "eval", txt="eval").stdout


def test_a_list_and_outputs_of_the_vendors_tools_are_decoded_too(route, tmp_path):
    photos = make_photos(tmp_path / "photos")
    onnx = tiny_scrfd(tmp_path / "tiny.onnx")
    route.run(onnx, photos, "--profile", "eval", save_dir="runner")
    route.image2npz(photos)
    route.vamp(onnx, output="output")
    # What is left is what the vendor's script and tool write.
    (tmp_path / "list.txt.manifest.json").unlink()
    (tmp_path / "output" / "vamp.json").unlink()
    (tmp_path / "output" / "run.json").unlink()
    flags = ("--model_size", "64", "64", "--profile", "eval")
    ran = route.decode("output", *flags, txt="refused", expect=2)
    assert "give the folder of the images with --input_image_dir" in ran.stderr
    route.decode("output", *flags, "--input_image_dir", photos, txt="decoded")
    assert route.results("decoded") == route.results("runner")
    ran = route.decode("output", "--input_image_dir", photos, txt="whole", expect=2)
    assert "run the network at that input size" in ran.stderr


def test_outputs_that_do_not_fit_are_refused_by_name(route, tmp_path):
    photos = make_photos(tmp_path / "photos", 5)
    onnx = tiny_scrfd(tmp_path / "tiny.onnx")
    route.image2npz(photos)
    route.vamp(onnx, "-b", "2", output="output")
    good = tmp_path / "output"

    def refused(change):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.rmtree(tmp_path / "txt", ignore_errors=True)
        shutil.copytree(good, tmp_path / "bad")
        change(tmp_path / "bad")
        ran = route.decode("bad", txt="txt", expect=2)
        assert ran.stderr.count("\n") == 1
        assert not (tmp_path / "txt" / "results.json").exists()
        return ran.stderr

    def swap(bad):
        (bad / "output_000001.npz").rename(bad / "x")
        (bad / "output_000003.npz").rename(bad / "output_000001.npz")
        (bad / "x").rename(bad / "output_000003.npz")

    def truncate(bad):
        path = bad / "output_000002.npz"
        path.write_bytes(path.read_bytes()[:1000])

    assert "output_000003.npz' is missing" in refused(lambda b: (b / "output_000003.npz").unlink())
    extra = refused(lambda b: shutil.copy(b / "output_000000.npz", b / "output_000005.npz"))
    assert "output_000005.npz' belongs to no line" in extra
    assert (
        "output_000001.npz' has the content that vamp.json records for output_000003.npz"
        in refused(swap)
    )
    assert "output_000002.npz' is not the file recorded in vamp.json" in refused(truncate)
    renamed = refused(lambda b: (b / "output_000004.npz").rename(b / "output_4.npz"))
    assert "output_000004.npz' is missing" in renamed
    stale = refused(lambda b: shutil.copy(b / "output_000000.npz", b / "output_000004.npz"))
    assert (
        "output_000004.npz' has the content that vamp.json records for output_000000.npz" in stale
    )
    route.decode("output", txt="txt", expect=4)
    route.decode("output", "--overwrite", txt="txt")


# On real photos, with the real network -----------------------------------------------------------


@pytest.fixture(scope="module")
def real(make_route, shared, tmp_path_factory):
    """Photos, odd ones among them, as npz; the network in two dtypes; the runner's results."""
    route = make_route(tmp_path_factory.mktemp("route"))
    photos = route.folder / "photos"
    for name in ("photos", "photos_odd"):
        shutil.copytree(shared / "assets" / name, photos / name)
    released = shared / "assets/scrfd/scrfd_500m_bnkps.onnx"
    route("export", "--onnx", released, "--output", route.folder / "raw.onnx")
    route.image2npz(photos, expect=1)
    for dtype in ("fp32", "fp16"):
        model = route.compile(route.folder / "raw.onnx", (640, 640), dtype)
        route.run(model, photos, save_dir=f"runner_{dtype}", expect=1)
    route.photos = photos
    return route


SETTINGS = {
    "plain": (),
    "two instances, batches of four": ("-i", "2", "-b", "4"),
    "two processes, batches of three": ("-p", "2", "-b", "3"),
}


@pytest.mark.shared
@pytest.mark.parametrize("flags", SETTINGS.values(), ids=SETTINGS)
def test_every_photo_gives_the_runners_bytes_in_fp32(real, flags):
    name = "_".join(flags)
    real.vamp("deploy_weights/official_scrfd_fp32/mod", *flags, output=f"o{name}")
    real.decode(f"o{name}", txt=f"d{name}", expect=1)
    expected = real.results("runner_fp32")
    assert len(expected) > 40
    assert real.results(f"d{name}") == expected


@pytest.mark.shared
def test_the_same_faces_in_fp16(real):
    real.vamp("deploy_weights/official_scrfd_fp16/mod", "-i", "2", "-b", "4", output="out_fp16")
    real.decode("out_fp16", txt="decoded_fp16", expect=1)
    compared = 0
    pairs = [
        json.loads(real.results(name)["results.json"])["images"]
        for name in ("runner_fp16", "decoded_fp16")
    ]
    for expected, found in zip(*pairs):
        assert found["path"] == expected["path"]
        assert len(found.get("faces", [])) == len(expected.get("faces", []))
        if not expected.get("faces"):
            continue
        scale = 640 / max(expected["width"], expected["height"])
        for one, other in zip(expected["faces"], found["faces"]):
            corners = np.subtract(one["box_xyxy"], other["box_xyxy"]) * scale
            assert np.abs(corners).max() <= 0.5
            assert abs(one["score"] - other["score"]) <= 1e-3
            compared += 1
    assert compared > 40


@pytest.mark.shared
@pytest.mark.parametrize("count", [1, 12])
def test_short_lists_are_paired_right(real, count):
    photos = real.folder / f"some_{count}"
    for path in sorted((real.photos / "photos").iterdir())[:count]:
        photos.mkdir(exist_ok=True)
        shutil.copy(path, photos)
    lists = ("--target_path", f"npz_{count}", "--text_path", f"list_{count}.txt")
    real("image2npz", "--dataset_path", photos, *lists)
    model = "deploy_weights/official_scrfd_fp32/mod"
    output, datalist = f"out_{count}", f"list_{count}.txt"
    real.vamp(model, "-p", "2", "-b", "5", output=output, datalist=datalist)
    real.decode(output, txt=f"decoded_{count}", datalist=datalist)
    real.run(model, photos, save_dir=f"runner_{count}")
    assert real.results(f"decoded_{count}") == real.results(f"runner_{count}")
