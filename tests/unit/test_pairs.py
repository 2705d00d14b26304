"""Feature, pair and picture lists, and verification sets: what is read, and what is refused."""

import contextlib
import io
import os
import pickle
import pickletools

import cv2
import numpy as np
import pytest
from facezoo.datasets.degraded import read_references
from facezoo.datasets.image_list import (
    MAX_LINE,
    ImageList,
    check_image_list,
    inside,
    read_image_list,
    read_lines,
    read_paths,
    write_image_list,
)
from facezoo.datasets.pairs import (
    feature_line,
    read_bin,
    read_feature_list,
    read_feature_pairs,
    read_pair_labels,
)
from facezoo.errors import DatasetError, InputError
from facezoo.image.files import read_image_rgb
from hypothesis import given, settings
from hypothesis import strategies as st

SEED_MAGNITUDES = [21.78, 22.16, 24.09, 24.4, 25.9, 27.11, 27.41, 28.22, 28.73, 30.25]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- feature lists


@pytest.mark.shared
def test_the_authors_list_gives_the_magnitudes_the_seed_prints(shared):
    path = shared / "assets" / "magface" / "toy_imgs" / "feat.list"
    features = read_feature_list(path)
    norms = np.linalg.norm(features.vectors, axis=1)
    assert [round(float(norm), 2) for norm in norms] == SEED_MAGNITUDES
    assert features.names == tuple(f"toy_imgs/{index}.jpg" for index in range(10))
    # Its lines are written again to the letter.
    lines = [feature_line(*row) for row in zip(features.names, features.vectors)]
    assert "".join(lines) == path.read_text()


def test_features_come_back_exactly(tmp_path, rng):
    vectors = rng.standard_normal((3, 512)).astype(np.float32)
    names = ("a.jpg", "with a space/b 2.jpg", "人脸.jpg")
    path = write(tmp_path / "f", "".join(map(feature_line, names, vectors)))
    features = read_feature_list(path)
    assert features.names == names
    assert np.array_equal(features.vectors, vectors.astype(np.float64))


def test_other_sizes_line_ends_and_a_byte_order_mark(tmp_path):
    path = write(tmp_path / "f", b"\xef\xbb\xbfa.jpg 1 2\r\nb.jpg\t3  4e-1\r\n\r\n")
    features = read_feature_list(path, size=2)
    assert features.names == ("a.jpg", "b.jpg")
    assert features.vectors.tolist() == [[1.0, 2.0], [3.0, 0.4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3\nb 1 2\n", "line 2 has 2 values after the path; expected 3"),
        ("a 1 2 3\nb 1 2 3 4\n", "line 2 has 4 values after the path; expected 3"),
        ("a 1 2 3\nb 1 nan 3\n", "line 2: value 1 is 'nan'; expected finite numbers"),
        ("a 1 2 inf\n", "line 1: value 2 is 'inf'"),
        ("a 1 2 x\n", "line 1 must be a path and 3 numbers: could not convert"),
        ("a b 1 2\n", "line 1 must be a path and 3 numbers"),
        ("1 2 3\n", "line 1 has 2 values after the path"),
        ("a 1 2 3\n\nb 1 2 3\n", "line 2 is empty; remove it"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        (b"a 1 2 3\n\xe9 1 2 3\n", "line 2 is not UTF-8"),
        (b"a 1 2 3\n\0\0\0 1 2 3\n", "line 2 contains NUL bytes"),
        (b"x" * (2 << 20), "line 1 is longer than"),
    ],
)
def test_hostile_feature_lists_are_refused_by_line(tmp_path, text, message):
    path = write(tmp_path / "feat.list", text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_feature_list(path, size=3)
    assert "feat.list" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (b"end", ""),
        (b"end\n\n\n", ""),
        (b"\n\nend\n", "line 200001 is empty"),
        (b"a\n\xe9\n", "line 200002 is not UTF-8"),
        (b"a\nb\n\0\n", "line 200003 contains NUL"),
        (b"a\n" + b"x" * (2 << 20) + b"\n", "line 200002 is longer"),
    ],
)
def test_lines_of_long_texts_are_counted_over_what_is_read_at_once(tmp_path, rest, message):
    lines = [f"photo {index}" for index in range(200_000)]
    path = write(tmp_path / "img.list", "".join(f"{line}\r\n" for line in lines).encode() + rest)
    assert path.stat().st_size > 2 * MAX_LINE
    with pytest.raises(DatasetError, match=message) if message else contextlib.nullcontext():
        assert list(read_lines(path)) == list(enumerate([*lines, "end"], start=1))


@pytest.mark.parametrize("size", [1, 64, 512, 1024])
def test_lists_of_any_length_are_read_and_one_length_a_file(tmp_path, size):
    line = "a b.jpg " + "0.5 " * size + "\n"
    found = read_feature_list(write(tmp_path / "f", line * 3))
    assert found.names == ("a b.jpg",) * 3
    assert found.vectors.shape == (3, size)
    path = write(tmp_path / "f", line * 2 + line.rstrip()[:-4] + "\n" + line)
    with pytest.raises(DatasetError, match=rf"line 3 .*{size}"):
        read_feature_list(path)
    with pytest.raises(DatasetError, match=rf"line 1 must be a path and {size + 1} numbers"):
        read_feature_list(write(tmp_path / "f", line), size=size + 1)


def test_a_line_without_numbers_is_no_feature(tmp_path):
    with pytest.raises(DatasetError, match="line 1 must be a path and 1 numbers"):
        read_feature_list(write(tmp_path / "f", "a.jpg b.jpg\n"))


def test_files_that_cannot_be_opened_are_named(tmp_path):
    for path in (tmp_path / "absent.list", tmp_path):
        with pytest.raises(DatasetError, match="cannot be read"):
            read_feature_list(path)


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\rb", ""])
def test_a_path_that_would_break_the_list_is_refused(name):
    with pytest.raises(DatasetError, match="line break"):
        feature_line(name, np.zeros(2))


# ---- pairs


def test_pairs_in_the_authors_layout(tmp_path):
    features = write(tmp_path / "f", "a 1 0\nb 0 1\nc 2 0\nd 0 2\n")
    pairs = read_feature_pairs(features, write(tmp_path / "p", "a b 1\nc d 0\n"), size=2)
    assert pairs.first.tolist() == [[1.0, 0.0], [2.0, 0.0]]
    assert pairs.second.tolist() == [[0.0, 1.0], [0.0, 2.0]]
    assert pairs.is_same.tolist() == [True, False]


@pytest.mark.parametrize("labels", ["1\n", "1\n0\n1\n"])
def test_two_features_a_pair_and_no_others(tmp_path, labels):
    features = write(tmp_path / "f", "a 1 0\nb 0 1\nc 2 0\nd 0 2\n")
    count = labels.count("\n")
    with pytest.raises(DatasetError, match=f"4 features for the {count} pairs.*{2 * count}"):
        read_feature_pairs(features, write(tmp_path / "p", labels), size=2)


PAIR_NAMES = ["p1/1.jpg", "p1/2.jpg", "p2/1.jpg", "p10/1.jpg"]


def of_names(tmp_path, names, pair_list, images=()):
    """Read features with these names for a list of pairs, and an img.list if images are given."""
    rows = "".join(f"{name} {row} 1\n" for row, name in enumerate(names, start=1))
    if images:
        write(tmp_path / "img.list", "".join(f"{name}\n" for name in images))
    features = write(tmp_path / "feat.list", rows)
    return read_feature_pairs(features, write(tmp_path / "pair.list", pair_list), size=2)


NAMED = "p1/1.jpg p1/2.jpg 1\np2/1.jpg p10/1.jpg 0\n"


@pytest.mark.parametrize("images", [(), PAIR_NAMES], ids=["in the list", "in img.list"])
def test_features_in_another_order_are_refused_by_line(tmp_path, images):
    # As ls sorts: p10 before p2.
    wrong = [*PAIR_NAMES[:2], *PAIR_NAMES[:1:-1]]
    pair_list = "0 1\n1 0\n" if images else NAMED
    with pytest.raises(DatasetError) as caught:
        of_names(tmp_path, wrong, pair_list, images)
    assert "line 3 holds the features of 'p10/1.jpg', but image 3 of" in str(caught.value)
    assert ("img.list" if images else "pair.list") in str(caught.value)
    assert "is 'p2/1.jpg' (2 of 4 names differ)" in str(caught.value)
    assert of_names(tmp_path, PAIR_NAMES, pair_list, images).first[:, 0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "names",
    [
        [f"/data/lfw/aligned/{name}" for name in PAIR_NAMES],
        [name.replace("jpg", "png") for name in PAIR_NAMES],
        [name.replace("/", "\\") for name in PAIR_NAMES],
        [name.rpartition("/")[2] for name in PAIR_NAMES],
    ],
)
def test_another_root_suffix_or_no_folder_is_the_same_image(tmp_path, names):
    assert len(of_names(tmp_path, names, NAMED).is_same) == 2


def test_the_same_file_name_of_another_person_is_not(tmp_path):
    names = ["p1/1.jpg", "p1/2.jpg", "p3/1.jpg", "p10/1.jpg"]
    with pytest.raises(DatasetError, match="line 3 holds the features of 'p3/1"):
        of_names(tmp_path, names, NAMED)


def test_a_list_without_names_is_used_with_a_warning(tmp_path, caplog):
    assert len(of_names(tmp_path, PAIR_NAMES, "0 1\n1 0\n").is_same) == 2
    assert "pair.list names no images, so it is not known whether" in caplog.text
    caplog.clear()
    of_names(tmp_path, PAIR_NAMES, NAMED)
    assert not caplog.text


@pytest.mark.parametrize("label", ["2", "-1", "true", "1.0"])
def test_labels_of_pairs_are_one_or_zero(tmp_path, label):
    with pytest.raises(DatasetError, match=f"line 2 ends with '{label}'"):
        read_pair_labels(write(tmp_path / "p", f"a b 1\na b {label}\n"))


# ---- lists of pictures


@pytest.mark.parametrize(
    "text",
    [
        "x/a.jpg 0\nx/b 2.jpg 1\n",
        "x/a.jpg 0 0 0\nx/b 2.jpg 0 1 0\n",
        "x/a.jpg;0\nx/b 2.jpg;1\n",
    ],
)
def test_all_forms_of_labelled_lists_are_read(tmp_path, text):
    path = write(tmp_path / "train.list", text)
    images = read_image_list(path)
    assert images.paths == ("x/a.jpg", "x/b 2.jpg")
    assert images.labels.tolist() == [0, 1]
    assert (len(images), images.classes) == (2, 2)
    assert read_paths(path) == images.paths


def test_lists_for_inference_have_paths_alone(tmp_path):
    assert read_paths(write(tmp_path / "l", "a.jpg\nb c.jpg")) == ("a.jpg", "b c.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0\nb\n", "line 2 does not end with a label: 'b'"),
        ("a 0\nb x\n", "line 2 does not end with a label"),
        ("a 0\nb -1\n", "line 2 does not end with a label"),
        ("a 0\nb 1.5\n", "line 2 does not end with a label"),
        ("a 0\nb 9999999999\n", "line 2 does not end with a label"),
        ("a 0\nb ٣\n", "line 2 does not end with a label"),
        ("7\n", "line 1 does not end with a label"),
        ("a 0\nb 0 1 0\n", "line 2 has the form 'path 0 label 0', the first 'path label'"),
        ("a 0 0 0\nb 1\n", "line 2 has the form 'path label'"),
        ("a;0\nb 1\n", "line 2 has the form 'path label', the first 'path;label'"),
    ],
)
def test_lists_that_are_wrong_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        read_image_list(write(tmp_path / "l", text))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("path label", "a/1.jpg 0\nb/2.jpg 1\n"),
        ("path 0 label 0", "a/1.jpg 0 0 0\nb/2.jpg 0 1 0\n"),
    ],
)
def test_lists_are_written_as_the_authors_read_them(tmp_path, form, expected):
    write_image_list(tmp_path / "l", ["a/1.jpg", "b/2.jpg"], [0, 1], form)
    assert (tmp_path / "l").read_text() == expected
    assert read_image_list(tmp_path / "l").labels.tolist() == [0, 1]


def test_lists_that_the_authors_could_not_read_are_not_written(tmp_path):
    with pytest.raises(DatasetError, match="1 paths contain white space"):
        write_image_list(tmp_path / "l", ["a.jpg", "b c.jpg"], [0, 1], "path label")
    with pytest.raises(InputError, match="'path;label'"):
        write_image_list(tmp_path / "l", ["a.jpg"], [0], "path;label")
    assert not list(tmp_path.iterdir())


def test_checked_lists_have_all_labels_and_all_files(tmp_path):
    write(tmp_path / "a.jpg", "x")
    check_image_list(ImageList(("a.jpg", "a.jpg"), np.array([1, 0])), tmp_path)
    with pytest.raises(DatasetError, match="2 is missing, the highest is 3, 3 are used"):
        check_image_list(ImageList(("a.jpg",) * 3, np.array([0, 3, 1])), tmp_path)
    with pytest.raises(DatasetError, match="0 is missing"):
        check_image_list(ImageList(("a.jpg",), np.array([1])), tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 2 images do not exist, the first is .*b\.jpg"):
        check_image_list(ImageList(("a.jpg", "b.jpg"), np.array([0, 1])), tmp_path)
    check_image_list(ImageList((str(tmp_path / "a.jpg"),), np.array([0])))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a", "a/../../b", "..", "C:\\a", "a\\..\\..\\b", "\\\\host\\a", "", "a\0b"],
)
def test_paths_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    with pytest.raises(DatasetError, match=r"leads outside"):
        inside(tmp_path, name)
    with pytest.raises(DatasetError, match="leads outside"):
        check_image_list(ImageList((name,), np.array([0])), tmp_path)


def test_paths_that_stay_in_a_folder_are_joined(tmp_path):
    assert inside(tmp_path, "a/./b..c/d.jpg") == tmp_path / "a" / "b..c" / "d.jpg"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp() / "fuzzed.list", content)
    for read in (read_image_list, read_paths, read_pair_labels, read_feature_list, read_bin):
        try:
            read(path)
        except DatasetError as error:
            assert "fuzzed.list" in str(error)


# ---- insightface's verification sets


def pictures(count):
    return [bytes([255, 216, index // 256, index % 256]) for index in range(count)]


def arrays(count):
    return [np.frombuffer(data, np.uint8).reshape(-1, 1) for data in pictures(count)]


def encoded(count):
    """The arrays of cv2.imencode."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
    return [cv2.imencode(".jpg", image)[1] for image in images]


def objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


FORMS_OF_IMAGES = {
    "arrays of imencode": list,
    "arrays of older OpenCV": lambda arrays: [array.reshape(-1, 1) for array in arrays],
    "bytes": lambda arrays: [array.tobytes() for array in arrays],
    "bytearrays": lambda arrays: [bytearray(array.tobytes()) for array in arrays],
    "an array of bytes": lambda arrays: objects([array.tobytes() for array in arrays]),
    "a tuple": tuple,
}
FORMS_OF_LABELS = {
    "booleans": list,
    "numbers": lambda labels: [int(label) for label in labels],
    "NumPy's booleans": lambda labels: [np.bool_(label) for label in labels],
    "NumPy's numbers": lambda labels: [np.int64(label) for label in labels],
    "numbers, most significant byte first": lambda labels: list(np.array(labels, ">i4")),
    "small numbers": lambda labels: [np.uint8(label) for label in labels],
    "an array of booleans": np.array,
    "an array of numbers": lambda labels: np.array(labels, np.int32),
    "an array, most significant byte first": lambda labels: np.array(labels, ">u2"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("images", FORMS_OF_IMAGES)
@pytest.mark.parametrize("labels", FORMS_OF_LABELS)
def test_sets_are_read_in_every_form_that_people_write(tmp_path, protocol, images, labels):
    arrays, is_same = encoded(6), [True, False, True]
    content = (FORMS_OF_IMAGES[images](arrays), FORMS_OF_LABELS[labels](is_same))
    path = write(tmp_path / "lfw.bin", pickle.dumps(content, protocol))
    pairs = read_bin(path)
    assert pairs.images == tuple(array.tobytes() for array in arrays)
    assert pairs.is_same.tolist() == is_same
    assert pairs.is_same.dtype == bool


def test_sets_written_by_python_2_are_read(tmp_path):
    # Protocol 0: images as texts, the label as a number.
    texts = b"".join(b"S%s\na" % repr(data)[1:].encode() for data in pictures(2))
    path = write(tmp_path / "lfw.bin", b"((l" + texts + b"(lI01\natp0\n.")
    assert read_bin(path).images == tuple(pictures(2))
    # Protocol 2 with Python 2's strings: PROTO, list of SHORT_BINSTRING, list of NEWTRUE.
    strings = b"".join(b"U" + bytes([len(data)]) + data for data in pictures(2))
    path = write(tmp_path / "lfw.bin", b"\x80\x02](" + strings + b"e](\x88e\x86.")
    assert read_bin(path).images == tuple(pictures(2))


def test_sets_written_by_an_older_numpy_are_read(tmp_path):
    content = pickle.dumps((arrays(2), [True]), 3)
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        renamed = write(tmp_path / "lfw.bin", content.replace(old, new))
        assert read_bin(renamed).images == tuple(pictures(2))


@pytest.mark.shared
def test_insightfaces_small_set_is_read(shared, tmp_path):
    pairs = read_bin(shared / "assets" / "recognition" / "small_lfw.bin")
    assert len(pairs.images) == 20
    assert pairs.is_same.all()
    assert len(pairs.is_same) == 10
    image = read_image_rgb(write(tmp_path / "first.jpg", pairs.images[0]))
    assert image.shape == (112, 112, 3)


class Bomb:
    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


class Popen(Bomb):
    def __reduce__(self):
        import subprocess

        return subprocess.Popen, (["touch", self.command.split()[1]],)


class Getattr(Bomb):
    def __reduce__(self):
        return getattr, ("", "join")


@pytest.mark.parametrize("bomb", [Bomb, Popen, Getattr])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: ([x, b"a"], [True]), lambda x: (arrays(2), [x])]
)
def test_pickle_bombs_run_nothing(tmp_path, bomb, protocol, wrap):
    marker = tmp_path / "exploded"
    path = write(tmp_path / "lfw.bin", pickle.dumps(wrap(bomb(marker)), protocol))
    with pytest.raises(DatasetError, match=r"lfw\.bin"):
        read_bin(path)
    assert not marker.exists()


def by_hand(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "content",
    [
        by_hand(b"(S'touch exploded'\nios\nsystem\n"),  # INST
        by_hand(b"(cos\nsystem\nS'touch exploded'\no"),  # OBJ
        by_hand(b"cos\nsystem\n)\x81"),  # NEWOBJ
        by_hand(b"\x82\x01"),  # EXT1
        by_hand(b"Pid\n"),  # PERSID
        by_hand(b"cnumpy\nndarray\n)Rcnumpy\nload\nb"),  # BUILD with a function
        by_hand(b"cnumpy\ndtype\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00ab"),  # BUILD of a class
        by_hand(b"X\x01\x00\x00\x00a)R"),  # REDUCE of text
        by_hand(b"cnumpy\nndarray.tofile\n"),
        by_hand(b"cnumpy.core.multiarray\nfromfile\n"),
        by_hand(b"cfacezoo.datasets.pairs\nread_bin\n"),
        by_hand(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R"),  # two billion bytes
        by_hand(b"cnumpy.core.multiarray\nscalar\nX\x02\0\0\0i8X\x01\0\0\0a\x86R"),
        by_hand(b"c_codecs\nencode\nc_codecs\nencode\n\x85R"),
        by_hand(b"c_codecs\ndecode\n"),
    ],
)
def test_instructions_that_no_set_needs_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"rejected: |not a verification set"):
        read_bin(write(tmp_path / "lfw.bin", content))
    assert [path.name for path in tmp_path.iterdir()] == ["lfw.bin"]


@pytest.mark.parametrize(
    "content",
    [
        by_hand(b"]r\xff\xff\xff\x7f"),  # a memo of 2 billion entries
        by_hand(b"\x8e" + (2**62).to_bytes(8, "little")),  # BINBYTES8
        by_hand(b"B" + (2**32 - 1).to_bytes(4, "little") + b"abc"),  # BINBYTES beyond the end
        by_hand(b"L" + b"9" * 2_000_000 + b"L\n"),  # a number of two million digits
        by_hand(b"I" + b"9" * 2_000_000 + b"\n"),
        by_hand(b"]p" + b"9" * 2_000_000 + b"\n"),
        by_hand(b"g" + b"9" * 2_000_000 + b"\n"),
        by_hand(b"\x96" + (2**33).to_bytes(8, "little") + b"abc"),  # BYTEARRAY8 beyond the end
        # A list of two lists of two lists …, as the name of a type.
        by_hand(
            b"]q\0",
            *(b"](h%ch%ceq%c" % (level - 1, level - 1, level) for level in range(1, 41)),
            b"cnumpy\ndtype\nh\x28\x85R",
        ),
        by_hand(b"(" * 50_000),
        by_hand(b"]" + b"\x85" * 50_000),  # a tuple in a tuple in a tuple
        by_hand(b"\x80\xff"),  # a protocol to come
    ],
)
def test_bombs_of_time_and_memory_are_refused(tmp_path, content):
    with pytest.raises(DatasetError):
        read_bin(write(tmp_path / "lfw.bin", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((pictures(3), [True]), "3 images and 1 labels; expected two images per pair"),
        (([], []), "0 images and 0 labels"),
        ((pictures(2), [True], 0), "expected a pickle of two lists"),
        ("text", "expected a pickle of two lists"),
        ((b"aa", [True]), "0 images and 1 labels"),
        (([b"a", b""], [True]), r"image 1 is not an encoded image \(1 such\)"),
        (([b"a", "b"], [True]), "image 1 is not an encoded image"),
        (([np.zeros(2, np.float32), b"a"], [True]), "image 0 is not an encoded image"),
        ((pictures(2), [2]), "a label is neither true nor false"),
        ((pictures(2), [None]), "a label is neither true nor false"),
        ((pictures(2), [b"\1"]), "a label is neither true nor false"),
    ],
)
def test_pickles_that_are_no_sets_are_refused(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message):
        read_bin(write(tmp_path / "lfw.bin", pickle.dumps(content, 3)))


def test_every_cut_of_a_set_is_refused(tmp_path):
    content = pickle.dumps((arrays(4), [True, False]), 3)
    for end in range(len(content)):
        with pytest.raises(DatasetError):
            read_bin(write(tmp_path / "lfw.bin", content[:end]))


def test_the_instructions_allowed_are_those_that_sets_are_made_of():
    from facezoo.datasets.pickles import _INSTRUCTIONS

    used = set()
    for protocol in range(6):
        for content in ((arrays(300), [True] * 150), (pictures(2), [1, 300, 70000])):
            stream = io.BytesIO(pickle.dumps(content, protocol))
            used |= {opcode.code for opcode, _, _ in pickletools.genops(stream)}
    allowed = {code.decode("latin-1") for code in _INSTRUCTIONS}
    assert used <= allowed
    # Numbers of any length, and every other way to call or look up something.
    assert not allowed & set("L\x8a\x8bioPQ\x81\x92\x82\x83\x84\x97\x98")


def test_an_img_list_of_other_pairs_is_refused(tmp_path):
    message = r"img.list' names 6 images for the 2 pairs of .*pair.list'; expected 4, two per pair"
    with pytest.raises(DatasetError, match=message):
        of_names(tmp_path, PAIR_NAMES, "0 1\n1 0\n", [*PAIR_NAMES, "x/1.jpg", "x/2.jpg"])


def test_references_that_are_not_among_the_images_are_counted(tmp_path, caplog):
    listed = write(tmp_path / "references.txt", "a/1.png\nc/1.png\nd/1.png\n")
    assert read_references(listed, ["b/1.png", "a/1.png"]).tolist() == [False, True]
    assert "2 of 3 references are not among the images, such as 'c/1.png'" in caplog.text
    with pytest.raises(DatasetError, match=r"names none of the images, such as 'b/1\.png'"):
        read_references(listed, ["b/1.png"])
