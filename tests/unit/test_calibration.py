"""Calibration data: which files are taken, what becomes of each, and what is refused by name."""

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from facezoo.card import Preprocess
from facezoo.compiler.calibration import FileLoader, open_calibration
from facezoo.errors import ConfigError, DatasetError, InputError
from facezoo.image.files import write_image_rgb
from facezoo.image.resize import fit_image, resize_image
from facezoo.vacc.build_config import parse_build_config

YAML = """
name: toy_int8
frontend: {{type: onnx, checkpoint: toy.onnx, shape: {{x: {shape}}}}}
backend: {{type: tvm_vacc, dtype: int8}}
dataset:
  path: {path}
  sampler: {{suffix: {suffix}, get_data_num: {count}}}
  process_ops: {ops}
workspace: {{path: out}}
"""
PLAIN = "[{type: DecodeImage}, {type: Resize, size: [8, 8]}, {type: ToTensor}]"


def config_of(path="pictures", *, shape="[1, 3, 8, 8]", suffix="png", count=3, ops=PLAIN):
    text = YAML.format(path=path, shape=shape, suffix=suffix, count=count, ops=ops)
    return parse_build_config(text.encode(), Path("toy.yaml"))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Five pictures of 12 x 16, each all of one grey: 0, 50, ... 200."""
    monkeypatch.chdir(tmp_path)
    for level in range(0, 250, 50):
        write_image_rgb(Path("pictures", f"{level}.png"), np.full((12, 16, 3), level, np.uint8))
    return Path("pictures")


def load(ops, path="pictures/p.png", base=None, shape="[1, 3, 8, 8]", **options):
    feeds = FileLoader(config_of(shape=shape, ops=ops), base, **options)(Path(path))
    assert list(feeds) == ["x"]
    assert feeds["x"].dtype == np.float32
    return feeds["x"]


# Which files


def test_a_seeded_choice_is_recorded_with_hashes(pictures):
    first, again = open_calibration(config_of()), open_calibration(config_of())
    assert first.names == again.names == tuple(sorted(first.names))
    assert len(first) == 3
    (pictures / "zz.txt").write_text("no picture")  # of another suffix: nothing changes
    assert open_calibration(config_of()).names == first.names
    for entry in first.record():
        data = (pictures / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_choice_is_no_mere_beginning(pictures):
    names = sorted(path.name for path in pictures.iterdir())
    assert list(open_calibration(config_of(count=3)).names) != names[:3]


def test_feeds_are_the_files_in_order_every_time_anew(pictures):
    data = open_calibration(config_of(count=5))
    for _ in range(2):
        levels = [int(feeds["x"].max()) for feeds in data]
        assert levels == [int(Path(name).stem) for name in data.names]
    assert [path.name for path in data.first(2).paths] == list(data.names[:2])


def test_folders_below_are_searched_and_hidden_files_left(pictures):
    (pictures / "below").mkdir()
    (pictures / "0.png").rename(pictures / "below" / "0.png")
    (pictures / "50.png").rename(pictures / ".50.png")
    assert "below/0.png" in open_calibration(config_of(count=4)).names
    assert len(open_calibration(config_of(count=9))) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "nowhere"}, "'nowhere' is not a folder; put calibration images there"),
        ({"path": "empty"}, "'empty' contains no file ending in 'png', it is empty"),
        ({"suffix": "PNG"}, r"no file ending in 'PNG'; there are 5 files ending in .png; .*case"),
    ],
)
def test_a_folder_without_pictures_is_an_error_by_name(pictures, changes, says):
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=says):
        open_calibration(config_of(**changes))


def test_an_unreadable_file_is_named_and_replaced(pictures, caplog):
    broken = open_calibration(config_of(count=4)).names[0]
    (pictures / broken).write_bytes(b"no picture at all")
    found = open_calibration(config_of(count=4))
    assert len(found) == 4
    assert broken not in found.names
    assert "not used for calibration" in caplog.text
    assert broken in caplog.text


def test_fewer_files_than_asked_for_are_a_warning(pictures, caplog):
    assert len(open_calibration(config_of(count=50))) == 5
    assert "pictures has 5 usable files, get_data_num is 50" in caplog.text


def test_nothing_readable_is_an_error(pictures):
    for path in pictures.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        ConfigError, match="none of the 5 files in 'pictures' can be read; see the warnings above"
    ):
        open_calibration(config_of())


def test_no_dataset_is_an_error():
    text = YAML.format(path="p", shape="[1]", suffix="png", count=1, ops="[]")
    without = text.partition("dataset:")[0] + "workspace: {path: out}\n"
    with pytest.raises(ConfigError, match="int8 needs calibration data"):
        open_calibration(parse_build_config(without.encode(), Path("toy.yaml")))


def test_pictures_that_are_evaluated_are_found_by_content(pictures, caplog):
    used = open_calibration(config_of()).names[0]
    Path("held").mkdir()
    Path("held", "renamed.png").write_bytes((pictures / used).read_bytes())
    with pytest.raises(DatasetError, match=f"'{used}' has the same content as .*renamed.png"):
        open_calibration(config_of(), eval_list=Path("held"))
    Path("list.txt").write_text("held/renamed.png\n")
    with pytest.raises(
        DatasetError,
        match=r"1 such files.*remove them from the calibration folder, or use --allow-leak",
    ):
        open_calibration(config_of(), eval_list=Path("list.txt"))
    caplog.clear()
    assert len(open_calibration(config_of(), eval_list=Path("held"), allow_leak=True)) == 3
    assert "would be too optimistic" in caplog.text
    Path("list.txt").write_text("held/gone.png\n")
    with pytest.raises(DatasetError, match=r"lists .*gone.png'.* relative to the list's folder"):
        open_calibration(config_of(), eval_list=Path("list.txt"))
    write_image_rgb(Path("held", "renamed.png"), np.full((4, 4, 3), 7, np.uint8))
    assert len(open_calibration(config_of(), eval_list=Path("held"))) == 3


# What becomes of a file


@pytest.fixture
def photo(tmp_path, monkeypatch, rng):
    """A picture of 24 x 32, RGB."""
    monkeypatch.chdir(tmp_path)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    write_image_rgb(Path("pictures", "p.png"), image)
    return image


@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_the_detector_operations_are_the_runners_letterbox(photo, anchor):
    """Long side, square, mean and deviation: calibration feeds what the runner feeds."""
    ops = (
        "[{type: DecodeImage}, {type: Resize, size: [16, -1], adaptive_side: long},"
        "{type: Pad, pad_to_square: true},"
        "{type: Normalize, div255: false, mean: [127.5, 127.5, 127.5], std: [128, 128, 128]},"
        "{type: ToTensor}]"
    )
    base = Preprocess(input_hw=(16, 16), fit="letterbox", anchor=anchor)
    expected = (fit_image(photo, base)[0].astype(np.float32) - 127.5) / 128
    found = load(ops, base=base, shape="[1, 3, 16, 16]")
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), atol=1e-6)


def test_normalising_divides_by_255_unless_told_otherwise(pictures):
    head = "{type: DecodeImage}, {type: Resize, size: [8, 8]}"
    for extra, expected in (
        ("", 200 / 255),
        (", div255: true", 200 / 255),
        (", div255: null", 200),
        (", mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]", (200 / 255 - 0.5) / 0.25),
        (", div255: false, mean: [100, 100, 100], std: [2, 2, 2]", 50),
    ):
        ops = f"[{head}, {{type: Normalize{extra}}}, {{type: ToTensor}}]"
        np.testing.assert_allclose(load(ops, "pictures/200.png"), expected, rtol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pillow_shrinks_with_its_own_filter(photo, interpolation):
    resize = f"{{type: Resize, size: [8, 8], interpolation: {interpolation}"
    ops = f"[{{type: DecodeImage}}, {resize}%s}}, {{type: ToTensor}}]"
    pillow = load(ops % ", backend: pillow")
    kind = f"{interpolation.upper()}_PILLOW"
    expected = resize_image(photo, (8, 8), kind).transpose(2, 0, 1)
    np.testing.assert_array_equal(pillow[0], expected)
    flag = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    plain = cv2.resize(photo, (8, 8), interpolation=flag).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(ops % "")[0], plain)
    assert np.abs(pillow[0] - plain).max() > 5


def test_colours_channels_and_crops(photo):
    swapped = load(
        "[{type: DecodeImage}, {type: CvtColor, code: COLOR_RGB2BGR},"
        "{type: CenterCrop, crop_size: [8, 8]}, {type: ToTensor}]"
    )
    crop = photo[8:16, 12:20]
    np.testing.assert_array_equal(swapped[0], crop[..., ::-1].transpose(2, 0, 1))
    green = load(
        "[{type: DecodeImage}, {type: CenterCrop, crop_size: [8, 8]},"
        "{type: ChannelSplit, index: 1}, {type: ToTensor}]",
        shape="[1, 1, 8, 8]",
    )
    np.testing.assert_array_equal(green[0, 0], crop[..., 1])
    gray = load(
        "[{type: DecodeImage, cv2_flags: 0}, {type: CenterCrop, crop_size: [8, 8]},"
        "{type: ToTensor}]",
        shape="[1, 1, 8, 8]",
    )
    np.testing.assert_array_equal(gray[0, 0], cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[8:16, 12:20])


CUSTOM = "[{type: CustomFunc, module_path: mine.py, func_name: read}]"


def test_a_custom_function_runs_only_when_allowed(photo):
    Path("mine.py").write_text(
        "import numpy as np\n"
        "def read(image_file, input_shape):\n"
        "    assert image_file.endswith('p.png')\n"
        "    return np.full(input_shape, 3)\n"
    )
    with pytest.raises(ConfigError, match=r"'mine.py', which is not allowed.*--allow-custom-code"):
        load(CUSTOM)
    assert (load(CUSTOM, allow_code=True) == 3).all()
    Path("mine.py").write_text("def read(image_file, input_shape):\n    raise KeyError('k')\n")
    with pytest.raises(ConfigError, match=r"CustomFunc read failed on .*p.png': KeyError: 'k'"):
        load(CUSTOM, allow_code=True)
    Path("mine.py").write_text("")
    with pytest.raises(ConfigError, match=r"'read' of 'mine.py' cannot be loaded \(AttributeError"):
        load(CUSTOM, allow_code=True)


def test_an_npz_without_operations_holds_the_feeds(photo):
    np.savez("pictures/a.npz", x=np.ones((1, 3, 8, 8)))
    np.savez("pictures/b.npz", input_0=np.full((3, 8, 8), 2, np.float16))
    np.savez("pictures/c.npz", other=np.ones(3))
    assert (load("[]", "pictures/a.npz") == 1).all()
    assert (load("[]", "pictures/b.npz") == 2).all()
    with pytest.raises(InputError, match=r"contains \['other'\]; expected 'x' or 'input_0'$"):
        load("[]", "pictures/c.npz")
    with pytest.raises(ConfigError, match=r"process_ops is empty, so .* must be an npz"):
        load("[]")
    data = open_calibration(config_of(ops="[]", suffix="npz"))
    assert data.names == ("a.npz", "b.npz")


def test_an_npz_with_operations_holds_a_picture(photo):
    np.savez("pictures/a.npz", input_0=photo.transpose(2, 0, 1))
    np.testing.assert_array_equal(load(PLAIN, "pictures/a.npz"), load(PLAIN))


@pytest.mark.parametrize(
    ("ops", "says"),
    [
        ("[{type: Resize, size: [8, 8]}, {type: ToTensor}]", "start with Resize"),
        ("[{type: DecodeImage}, {type: ToTensor}]", r"becomes float32 \(1, 3, 24, 32\), frontend"),
        ("[{type: DecodeImage}, {type: ToTensor}, {type: Pad, pad_to_square: true}]", "Pad of"),
        (
            "[{type: DecodeImage}, {type: CenterCrop, crop_size: [48, 8]}, {type: ToTensor}]",
            "CenterCrop of 8x48 does not fit into an image of 32x24",
        ),
        (
            "[{type: DecodeImage, cv2_flags: 0}, {type: ChannelSplit, index: 2}]",
            "the image has 1 channels",
        ),
    ],
)
def test_operations_that_make_no_input_are_named(photo, ops, says):
    with pytest.raises(ConfigError, match=says):
        load(ops)


# Memory

MEASURE = """
import resource, sys
from pathlib import Path
from facezoo.testing import tiny_scrfd
from facezoo.vacc.build_config import read_build_config
from facezoo.compiler.calibration import open_calibration
from facezoo.compiler.build import prepare_source
from facezoo.compiler.quantize import quantize_graph
config = read_build_config(Path(sys.argv[1]))
tiny_scrfd(config.frontend.checkpoint, input_hw=(640, 640))
quantize_graph(prepare_source(config).folded, config.backend.quantize, open_calibration(config))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, rng):
    noise = rng.integers(0, 256, (640, 640, 3), np.uint8)
    peaks = []
    for count in (50, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            cv2.imwrite(str(folder / f"{index}.jpg"), np.roll(noise, index, axis=0))
        ops = "[{type: DecodeImage}, {type: ToTensor}]"
        text = YAML.format(
            path=folder, shape="[1, 3, 640, 640]", suffix="jpg", count=count, ops=ops
        )
        text = text.replace("toy.onnx", str(tmp_path / "toy.onnx")).replace("{x:", "{input.1:")
        text = text.replace("dtype: int8", "dtype: int8, quantize: {calibrate_mode: percentile}")
        (tmp_path / "toy.yaml").write_text(text)
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "toy.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    logging.getLogger(__name__).info("peak of 50 and 1,000 pictures: %s KiB", peaks)
    assert peaks[1] <= 1.1 * peaks[0]
