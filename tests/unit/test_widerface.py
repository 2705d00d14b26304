"""Reading and writing WIDER FACE files, and what is said about files that cannot be used."""

import contextlib
import io
import json
import math
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.datasets import widerface
from facezoo.datasets.matfile import read_mat
from facezoo.datasets.widerface import (
    GROUND_TRUTH,
    check_dataset,
    format_widerface,
    photo_name,
    predictions_from_faces,
    read_ground_truth,
    read_predictions,
    unpack_ground_truth,
    unpack_photos,
)
from facezoo.errors import DatasetError
from facezoo.metrics.detection import KERNELS, evaluate_detections
from facezoo.results import FaceDetections
from facezoo.runs import Inputs, RunFolder
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import loadmat, savemat


def saved_mat(content, **options):
    file = io.BytesIO()
    savemat(file, content, **options)
    return file.getvalue()


NESTED = np.empty((2, 1), dtype=object)
NESTED[:, 0] = [np.ones((2, 1)), "text"]
MAT = saved_mat({"gt_list": NESTED})
PACKED_MAT = saved_mat({"x": np.ones((100, 100))}, do_compression=True)

TEXTS = {
    "0--Parade/a_1": "a_1\n2\n1 2 30 40 0.9\n5 6 7.5 8 0.125 \n",
    "0--Parade/a_2": "a_2\n0\n",
    "1--Hand.Shaking/b.c_3": "1--Hand.Shaking/b.c_3.jpg\n1\n1e1 2 3 4 0.02\n",
}
ROWS = [[1, 2, 30, 40, 0.9], [5, 6, 7.5, 8, 0.125], [10, 2, 3, 4, 0.02]]


def check_content(predictions):
    assert predictions.images == tuple(TEXTS)
    assert predictions.starts.tolist() == [0, 2, 2, 3]
    rows = np.column_stack([predictions.boxes_xywh, predictions.scores])
    assert rows.tolist() == ROWS


def write_folder(folder, texts=TEXTS):
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_tar(path, members, mode="w:gz"):
    """Members are names with text, or TarInfo objects with None."""
    with tarfile.open(path, mode) as archive:
        for member, text in members:
            if isinstance(member, str):
                info = tarfile.TarInfo(member)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
            else:
                archive.addfile(member)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


def text_members(prefix="preds/"):
    return [(f"{prefix}{name}.txt", text.encode()) for name, text in TEXTS.items()]


# Predictions in every container ----------------------------------------------------------------


def test_folder(tmp_path):
    check_content(read_predictions(write_folder(tmp_path)))


def test_folder_inside_a_run_folder(tmp_path):
    write_folder(tmp_path / "txt")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "txt" / "0--Parade" / ".hidden.txt").write_text("junk")
    check_content(read_predictions(tmp_path))


@pytest.mark.parametrize(
    ("name", "mode"), [("p.tar.gz", "w:gz"), ("p.tgz", "w:gz"), ("p.tar", "w:")]
)
@pytest.mark.parametrize("prefix", ["preds/", "", "./"])
def test_tar(tmp_path, name, mode, prefix):
    folder = tarfile.TarInfo(f"{prefix}0--Parade")
    folder.type = tarfile.DIRTYPE
    members = [(folder, None), (f"{prefix}README.md", b"hello"), *text_members(prefix)]
    check_content(read_predictions(write_tar(tmp_path / name, members, mode)))


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_with_names_of_any_length(tmp_path, format_):
    stem = "x" * 90
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz", format=format_) as archive:
        info = tarfile.TarInfo(f"some/where/0--Parade/{stem}.txt")
        text = f"{stem}\n1\n1 2 3 4 0.5\n".encode()
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    predictions = read_predictions(tmp_path / "p.tar.gz")
    assert predictions.images == (f"0--Parade/{stem}",)
    assert predictions.scores.tolist() == [0.5]


def test_zip(tmp_path):
    members = [*text_members(), ("__MACOSX/preds/0--Parade/._a_1.txt", b"\0\5\x16")]
    check_content(read_predictions(write_zip(tmp_path / "p.zip", members)))


def test_json(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    check_content(read_predictions(path))


def results():
    marks = [[1.0, 2.0]] * 5
    faces = [
        {"box_xyxy": [x, y, x + w, y + h], "score": s, "landmarks_xy": marks}
        for x, y, w, h, s in ROWS
    ]
    names = [f"val/images/{name}.jpg" for name in TEXTS]
    return {
        "schema": "facezoo.faces/1",
        "images": [
            {"path": names[0], "width": 99, "height": 99, "faces": faces[:2]},
            {"path": names[1], "width": 99, "height": 99, "faces": []},
            {"path": "0--Parade/refused.jpg", "error": "is empty (0 bytes)"},
            {"path": names[2], "width": 99, "height": 99, "faces": faces[2:]},
        ],
    }


def test_batches_join_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(widerface, "BYTES_AT_ONCE", 1)
    check_content(read_predictions(write_folder(tmp_path)))


@pytest.mark.parametrize("end", ["\r\n", "\r", " \t\n", "\n\n"])
def test_any_line_ends_and_blank_lines(tmp_path, end):
    texts = {name: text.replace("\n", end) for name, text in TEXTS.items()}
    if end == "\n\n":  # Blank lines between boxes and at the end, as editors leave them.
        texts = {
            name: text.replace("\n", "\n\n").replace("\n\n", "\n", 2)
            for name, text in TEXTS.items()
        }
    check_content(read_predictions(write_folder(tmp_path, texts)))


def test_a_byte_order_mark_is_passed_over(tmp_path):
    texts = {name: b"\xef\xbb\xbf" + text.encode() for name, text in TEXTS.items()}
    check_content(read_predictions(write_folder(tmp_path, texts)))


@settings(max_examples=60, deadline=None)
@given(value=st.floats(0, 1e7))
def test_numbers_are_read_to_the_last_digit(value):
    data = f"x\n1\n1 2 3 4 {value!r}\n".encode()
    text = widerface._Text("x.txt", "e/x", data)
    assert widerface._parse_together([text])[1][0, 4] == value == widerface._parse_alone(text)[0, 4]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("0--Parade/a.b.txt", "0--Parade/a.b"),
        ("x/0--Parade/marchingjp.jpg", "0--Parade/marchingjp"),
        ("0--Parade/A.JPEG", "0--Parade/A"),
        ("0--Parade/plain", "0--Parade/plain"),
    ],
)
def test_photo_name(path, name):
    assert photo_name(path) == name


# Writing ---------------------------------------------------------------------------------------

coordinates = st.floats(0, 1e5, width=32)


def faces_of(boxes, scores):
    return FaceDetections(
        np.reshape(boxes, (-1, 4)).astype(np.float32),
        np.asarray(scores, np.float32),
        np.zeros((len(scores), 5, 2), np.float32),
        (480, 640),
    )


def test_text_of_one_photo():
    faces = faces_of([[1, 2, 31.5, 42], [9, 9, 8, 8]], [0.9, 0.1])
    expected = "0--Parade/a\n2\n1 2 30.5 40 0.899999976\n9 9 0 0 0.100000001\n"
    assert format_widerface("0--Parade/a", faces) == expected
    assert format_widerface("0--Parade/a", faces_of([], [])) == "0--Parade/a\n0\n"


@settings(max_examples=200, deadline=None)
@given(
    corners=hnp.arrays(np.float32, (3, 2, 2), elements=coordinates),
    scores=hnp.arrays(np.float32, 3, elements=st.floats(0, 1, width=32)),
)
def test_what_is_written_comes_back_as_the_same_float32(corners, scores):
    boxes = np.sort(corners, axis=1).reshape(3, 4)
    faces = faces_of(boxes, scores)
    text = widerface._Text("x", "e/x", format_widerface("e/x", faces).encode())
    rows = widerface._parse_alone(text)
    back = np.column_stack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]).astype(np.float32)
    np.testing.assert_array_equal(back, boxes)
    np.testing.assert_array_equal(rows[:, 4].astype(np.float32), scores)


def test_faces_in_memory_equal_faces_in_texts(tmp_path, rng):
    corner = rng.uniform(0, 900, (40, 2))
    boxes = np.column_stack([corner, corner + rng.uniform(0, 90, (40, 2))])
    faces = {"0--Parade/a": faces_of(boxes, rng.random(40)), "0--Parade/b": faces_of([], [])}
    write_folder(tmp_path, {name: format_widerface(name, found) for name, found in faces.items()})
    read, direct = read_predictions(tmp_path), predictions_from_faces(faces)
    assert read.images == direct.images
    np.testing.assert_array_equal(read.starts, direct.starts)
    np.testing.assert_allclose(read.boxes_xywh, direct.boxes_xywh, rtol=1e-8)
    corners = read.boxes_xywh[:, :2] + read.boxes_xywh[:, 2:]
    np.testing.assert_array_equal(corners.astype(np.float32), boxes[:, 2:].astype(np.float32))


# Texts that are not as they should -------------------------------------------------------------

ROW = "1 2 3 4 0.5\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "fewer than two lines"),
        ("a\n", "fewer than two lines"),
        ("other\n0\n", "line 1 names the photo 'other'; expected the file's own name, 'a'"),
        (b"caf\xe9\n0\n", r"line 1 is 'caf\\xe9', not UTF-8"),
        (f"a\n{ROW}", "line 2 is '1 2 3 4 0.5'; expected the number of boxes"),
        (f"a\n-1\n{ROW}", "line 2 is '-1'"),
        (f"a\n{'9' * 5000}\n{ROW}", "line 2 is '999"),
        (f"a\n3\n{ROW}{ROW}", "line 2 announces 3 boxes, but 2 follow"),
        (f"a\n1\n{ROW}{ROW}", "line 2 announces 1 boxes, but 2 follow"),
        (f"a\n2\n{ROW}1 2 3 4\n", r"line 4 is '1 2 3 4' (columns: 4)"),
        (f"a\n2\n{ROW}1 2 3 4 5 6\n", r"line 4 is '1 2 3 4 5 6' (columns: 6)"),
        ("a\n2\n1 2 3 4\n1 2 3 4 5 6\n", "line 3 is '1 2 3 4' (columns: 4)"),
        ("a\n1\n1,2,3,4,0.5\n", "line 3 is '1,2,3,4,0.5' (columns: 1)"),
        (f"a\n2\n{ROW}a b c d e\n", "line 4 is 'a b c d e'"),
        (f"a\n2\n{ROW}1 2 3 4 nan\n", "line 4 is '1 2 3 4 nan'"),
        (f"a\n2\n{ROW}1 2 inf 4 0.1\n", "line 4 is '1 2 inf 4 0.1'"),
        (f"a\n2\n{ROW}1 2 1e999 4 0.1\n", "line 4 is '1 2 1e999 4 0.1'"),
        (f"a\n2\n{ROW}1 2 -3 4 0.1\n", "line 4 is '1 2 -3 4 0.1'"),
        ("a\n1\n1 2 3 4\xa00.5\n".encode("latin-1"), r"line 3 is '1 2 3 4\\xa00.5'"),
        ("a\n1\n1 2 3 4 0.5 é\n".encode("latin-1"), r"line 3 is '1 2 3 4 0.5 \\xe9'"),
        (f"a\n1\n{ROW}".encode("utf-16"), "line 1 is"),
        (bytes(range(256)), "line 1 names"),
    ],
)
def test_a_bad_text_is_named_with_its_line(tmp_path, text, said):
    good = {f"0--Parade/good_{index}": f"good_{index}\n1\n{ROW}" for index in range(3)}
    write_folder(tmp_path, {**good, "1--X/a": text, "2--X/z": f"z\n1\n{ROW}"})
    with pytest.raises(DatasetError) as caught:
        read_predictions(tmp_path)
    message = str(caught.value)
    assert message.startswith(repr(str(tmp_path / "1--X" / "a.txt")))
    assert said in message
    assert "\n" not in message and len(message) < 400
    assert "expected" in message or "write it again" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: r.update(schema="facezoo.faces/9"),
            "has the schema 'facezoo.faces/9'; expected",
        ),
        (lambda r: r.pop("schema"), "has the schema None"),
        (lambda r: r.pop("images"), "has no list 'images'"),
        (lambda r: r["images"].append(7), "images[4] has no 'path'"),
        (lambda r: r["images"][0].pop("path"), "images[0] has no 'path'"),
        (
            lambda r: r["images"][0].update(path="lone.jpg"),
            "'lone.jpg' is not in the folder of an event",
        ),
        (lambda r: r["images"].append(r["images"][0]), "lists the photo '0--Parade/a_1' twice"),
        (lambda r: r["images"][0].pop("faces"), "0--Parade/a_1' has no list 'faces'"),
        (lambda r: r["images"][0]["faces"].append({}), "a_1' faces[2] is not a face"),
        (lambda r: first_face(r).update(box_xyxy=[1, 2, 3]), "faces[0] is not a face"),
        (lambda r: first_face(r).update(box_xyxy=[1, 2, 3, 4, 5]), "faces[0] is not a face"),
        (lambda r: first_face(r).update(box_xyxy=7), "faces[0] is not a face"),
        (lambda r: first_face(r).pop("score"), "faces[0] is not a face"),
        (lambda r: first_face(r).update(score="0.5"), "faces[0] is not a face"),
        (lambda r: first_face(r).update(score=True), "faces[0] is not a face"),
        (lambda r: first_face(r).update(score=math.nan), "faces[0] is not a face"),
        (lambda r: first_face(r).update(score=10**400), "faces[0] is not a face"),
    ],
)
def test_bad_results_are_named(tmp_path, change, said):
    content = results()
    change(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        read_predictions(path)
    assert said in str(caught.value)


def first_face(content):
    return content["images"][0]["faces"][0]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a":', b"[" * 100_000, bytes(range(256))])
def test_a_file_that_is_no_json_of_results(tmp_path, data):
    (tmp_path / "results.json").write_bytes(data)
    with pytest.raises(
        DatasetError, match=r"results.json' (is not valid JSON|has the schema None)"
    ):
        read_predictions(tmp_path / "results.json")


# Archives that are not as they should ----------------------------------------------------------


def link(kind, name="0--Parade/l.txt"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/hostname"
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("../0--Parade/x.txt", b"x\n0\n"), "is a path that leads outside"),
        (("0--Parade/../../x.txt", b"x\n0\n"), "is a path that leads outside"),
        (("/0--Parade/x.txt", b"x\n0\n"), "is a path that leads outside"),
        (("..\\0--Parade\\x.txt", b"x\n0\n"), "is a path that leads outside"),
        (("C:/0--Parade/x.txt", b"x\n0\n"), "is a path that leads outside"),
        (("../evil.sh", b""), "is a path that leads outside"),
        ((link(tarfile.SYMTYPE), None), "is a link or a device"),
        ((link(tarfile.LNKTYPE), None), "is a link or a device"),
        ((link(tarfile.FIFOTYPE), None), "is a link or a device"),
        (("lone.txt", b"lone\n0\n"), "is not in the folder of an event"),
        (("more/0--Parade/a_1.txt", b"a_1\n0\n"), "is for the same photo as"),
        (("0--Parade/big.txt", b"\0" * (17 << 20)), "is 17825792 bytes"),
        (("0--Parade/bad.txt", b"bad\n1\n"), "line 2 announces 1 boxes"),
    ],
)
def test_a_bad_member_is_named(tmp_path, member, said):
    archives = [write_tar(tmp_path / "p.tar.gz", [*text_members(), member])]
    if isinstance(member[0], str):
        archives.append(write_zip(tmp_path / "p.zip", [*text_members(), member]))
    for archive in archives:
        with pytest.raises(DatasetError) as caught:
            read_predictions(archive)
        assert str(caught.value).startswith(f"'{archive}: ".replace("\\", "\\\\"))
        assert said in str(caught.value)


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("0--Parade/l.txt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write_zip(tmp_path / "p.zip", [*text_members(), (info, b"/etc/hostname")])
    with pytest.raises(DatasetError, match="is a link"):
        read_predictions(archive)


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
def test_a_damaged_archive_never_gives_wrong_numbers(tmp_path, kind, rng):
    texts = [(f"0--Parade/p_{i}.txt", f"p_{i}\n1\n{i} 2 3 4 0.5\n".encode()) for i in range(20)]
    path = tmp_path / f"p.{kind}"
    if kind == "zip":
        write_zip(path, texts)
    else:
        write_tar(path, texts, "w:" if kind == "tar" else "w:gz")
    whole = path.read_bytes()
    end = len(whole) if kind != "tar" else len(whole.rstrip(b"\0")) + 512
    for length in [0, 1, 511, 512, 1024, 1500, end // 2, end - 30]:
        path.write_bytes(whole[: min(length, end - 1)])
        with pytest.raises(DatasetError):
            read_predictions(path)
    for _ in range(200 if kind != "tar" else 0):  # A plain tar has no checksum over its data.
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            predictions = read_predictions(path)
        except DatasetError as error:
            assert "\n" not in str(error)
        else:
            found = dict(zip(predictions.images, predictions.boxes_xywh.tolist()))
            for name, row in found.items():
                assert row == [int(name.rpartition("_")[2]), 2, 3, 4]


@pytest.mark.parametrize("place", [0, 100, 124, 136, 148, 265])
def test_a_damaged_header_of_a_tar_is_refused(tmp_path, place):
    path = write_tar(tmp_path / "p.tar", text_members(), "w:")
    data = bytearray(path.read_bytes())
    data[1024 + place] ^= 1  # In the second member's header: name, mode, size, time, sum, owner.
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"p\.tar' is not a tar archive or is damaged \(bad"):
        read_predictions(path)


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.rar").write_bytes(b"Rar!")
    for name, said in [
        ("empty", "contains no predictions"),
        ("p.rar", "is not a source of predictions"),
        ("nowhere", "does not exist"),
    ]:
        with pytest.raises(DatasetError, match=said):
            read_predictions(tmp_path / name)


def test_a_text_outside_an_events_folder_is_named(tmp_path):
    (tmp_path / "lone.txt").write_text("lone\n0\n")
    with pytest.raises(DatasetError, match=r"lone\.txt' is not in the folder of an event"):
        read_predictions(tmp_path)


def test_a_huge_text_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(widerface, "LARGEST_TEXT", 20)
    with pytest.raises(DatasetError, match=r"a_1\.txt' is larger"):
        read_predictions(write_folder(tmp_path))


# Ground truth ----------------------------------------------------------------------------------

BOXES = {
    "0--Parade/a_1": [[1, 2, 30, 40], [300, 6, 7, 8], [9, 9, 0, 0]],
    "0--Parade/a_2": [[5, 5, 5, 5]],
    "1--Hand.Shaking/b.c_3": [[10, 20, 300, 1000]],
}
COUNTED = {
    "easy": [[1], [], []],
    "medium": [[1, 2], [], [1]],
    "hard": [[1, 3, 2], [1], [1]],
}


def cells(values):
    column = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        column[index, 0] = value
    return column


def save_ground_truth(folder, boxes=BOXES, counted=COUNTED):
    """Write what the four official files hold, in their nested cells."""
    folder.mkdir(parents=True, exist_ok=True)
    events = list(dict.fromkeys(name.partition("/")[0] for name in boxes))

    def by_event(values):
        pairs = list(zip(boxes, values))
        return cells(
            [cells([v for name, v in pairs if name.partition("/")[0] == e]) for e in events]
        )

    savemat(
        folder / GROUND_TRUTH[0],
        {
            "event_list": cells(events),
            "file_list": by_event([name.partition("/")[2] for name in boxes]),
            "face_bbx_list": by_event([np.array(rows, np.int16) for rows in boxes.values()]),
        },
        do_compression=True,
    )
    for level, numbers in counted.items():
        columns = [np.array(n, np.uint8).reshape(-1, 1) for n in numbers]
        savemat(folder / f"wider_{level}_val.mat", {"gt_list": by_event(columns)})
    return folder


def equals(ours, scipys):
    if ours.dtype == object:
        same = all(map(equals, ours.ravel(), scipys.ravel()))
        return same and ours.shape == scipys.shape
    return ours.size == scipys.size == 0 or np.array_equal(ours, scipys)


@pytest.mark.parametrize("packed", [True, False])
def test_mat_files_are_read_as_by_scipy(tmp_path, packed):
    """Texts of any letters, whole and broken numbers, empty and nested cells, other variables."""
    cells = np.empty((3, 2), dtype=object)
    for index, value in enumerate(["a", "Überzahl 人", "", np.eye(2), np.zeros((0, 4)), 300.5]):
        cells[index % 3, index // 3] = value
    inner = np.empty((1, 1), dtype=object)
    inner[0, 0] = np.arange(6, dtype=np.int16).reshape(2, 3)
    cells[2, 0] = inner
    content = {"cells": cells, "numbers": np.array([[1.0, 2.5], [3.0, 4.0]]), "odd": {"a": 1}}
    savemat(tmp_path / "x.mat", content, do_compression=packed)
    found = read_mat((tmp_path / "x.mat").read_bytes(), ("cells", "numbers", "none"), 1 << 20)
    expected = loadmat(tmp_path / "x.mat")
    assert list(found) == ["cells", "numbers"]
    assert all(equals(found[name], expected[name]) for name in found)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_mat_files_are_refused_or_read(position, byte):
    """A byte changed anywhere raises a ValueError, if anything."""
    data = bytearray(MAT)
    data[position % len(data)] = byte
    with contextlib.suppress(ValueError):
        read_mat(bytes(data), ("gt_list",), 1 << 20)


def test_a_mat_file_that_unpacks_to_too_much_is_refused():
    assert read_mat(PACKED_MAT, ("x",), 1 << 20)["x"].shape == (100, 100)
    with pytest.raises(ValueError, match="unpacks to too much"):
        read_mat(PACKED_MAT, ("x",), 1 << 10)


def test_ground_truth(tmp_path):
    truth = read_ground_truth(save_ground_truth(tmp_path))
    assert truth.images == tuple(BOXES)
    assert truth.starts.tolist() == [0, 3, 4, 5]
    assert truth.boxes_xywh.tolist() == [row for rows in BOXES.values() for row in rows]
    assert {level: mask.tolist() for level, mask in truth.levels.items()} == {
        "easy": [True, False, False, False, False],
        "medium": [True, True, False, False, True],
        "hard": [True] * 5,
    }


@pytest.mark.parametrize("name", GROUND_TRUTH)
def test_a_missing_file_of_the_ground_truth_is_named(tmp_path, name):
    (save_ground_truth(tmp_path) / name).unlink()
    with pytest.raises(DatasetError, match=rf"{name}' is missing; .*facezoo prepare widerface"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize("name", GROUND_TRUTH)
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "no header", "other variables"])
def test_a_mat_that_is_not_one_is_named(tmp_path, name, damage):
    path = save_ground_truth(tmp_path) / name
    data = path.read_bytes()
    if damage == "other variables":
        savemat(path, {"x": np.ones(3)})
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"hello" * 99,
                "cut": data[: len(data) // 2],
                "no header": data[128:],
            }[damage]
        )
    with pytest.raises(DatasetError, match=rf"{name}' is not the ground truth"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([[4], [], []], "easy_val.mat' is not the ground truth"),
        ([[0], [], []], "easy_val.mat' is not the ground truth"),
        ([[1, 1], [], []], "easy_val.mat' is not the ground truth"),
        ([[1], [2], []], "easy_val.mat' is not the ground truth"),
        ([[1], []], "covers 2 photos, wider_face_val.mat covers 3"),
    ],
)
def test_levels_that_do_not_fit_the_faces(tmp_path, numbers, said):
    save_ground_truth(tmp_path)
    boxes = dict(list(BOXES.items())[: len(numbers)])
    save_ground_truth(tmp_path / "other", boxes, {"easy": numbers})
    shutil.copy(tmp_path / "other" / "wider_easy_val.mat", tmp_path)
    with pytest.raises(DatasetError, match=said):
        read_ground_truth(tmp_path)


# The data set ----------------------------------------------------------------------------------


@pytest.fixture
def small_counts(monkeypatch):
    monkeypatch.setattr(widerface, "EVENTS", 2)
    monkeypatch.setattr(widerface, "PHOTOS", 3)
    monkeypatch.setattr(widerface, "FACES", 5)


def photos_zip(path, names=tuple(BOXES)):
    return write_zip(path, [(f"WIDER_val/images/{name}.jpg", b"jpeg") for name in names])


def ground_truth_zip(path, folder):
    save_ground_truth(folder)
    members = [(f"eval_tools/ground_truth/{n}", (folder / n).read_bytes()) for n in GROUND_TRUTH]
    return write_zip(path, [("eval_tools/wider_eval.m", b"%"), *members])


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_unpacking_and_checking(tmp_path, small_counts):
    to = tmp_path / "wider"
    assert unpack_photos(photos_zip(tmp_path / "photos.zip"), to) == 3
    assert unpack_ground_truth(ground_truth_zip(tmp_path / "gt.zip", tmp_path / "gt"), to) == 4
    assert check_dataset(to) == (2, 3, 5)
    assert files_below(to) == sorted(
        [f"WIDER_val/images/{name}.jpg" for name in BOXES]
        + [f"eval_tools/ground_truth/{name}" for name in GROUND_TRUTH]
    )


def test_unpacking_again_keeps_what_is_there(tmp_path):
    archive, to = photos_zip(tmp_path / "photos.zip"), tmp_path / "wider"
    unpack_photos(archive, to)
    first, second, _ = sorted(to.rglob("*.jpg"))
    before = first.stat().st_mtime_ns
    second.write_bytes(b"jp")  # As after a disk that was full.
    unpack_photos(archive, to)
    assert first.stat().st_mtime_ns == before
    assert second.read_bytes() == b"jpeg"


def test_another_file_in_a_photos_place_stays(tmp_path, capsys):
    archive, to = photos_zip(tmp_path / "photos.zip"), tmp_path / "wider"
    unpack_photos(archive, to)
    (photo, empty, zeros) = sorted(to.rglob("*.jpg"))
    empty.write_bytes(b"")
    zeros.write_bytes(b"\0\0\0\0")
    words = ["prepare", "widerface", "--to", str(to), "--images-zip", str(archive)]
    for mine in (b"mine", b"a longer one", b"jpegs"):
        photo.write_bytes(mine)
        assert main(words) == 2
        assert f"{photo.name}' exists with another content" in capsys.readouterr().err
        assert photo.read_bytes() == mine
    photo.unlink()
    unpack_photos(archive, to)
    assert {path.read_bytes() for path in to.rglob("*.jpg")} == {b"jpeg"}


def test_a_folder_is_unpacked_to_by_one_command_at_a_time(tmp_path, capsys):
    archive, to = photos_zip(tmp_path / "photos.zip"), tmp_path / "wider"
    words = ["prepare", "widerface", "--to", str(to), "--images-zip", str(archive)]
    with RunFolder(to, "test", {}, Inputs([], [])):
        assert main(words) == 4
        assert "is in use by another run" in capsys.readouterr().err
    assert main(words) == 4
    assert "holds the results of a run" in capsys.readouterr().err
    assert not list(to.rglob("*.jpg"))


def test_what_is_missing_is_named(tmp_path, small_counts):
    save_ground_truth(tmp_path / "eval_tools" / "ground_truth")
    unpack_photos(photos_zip(tmp_path / "photos.zip"), tmp_path)
    photo = tmp_path / "WIDER_val" / "images" / "0--Parade" / "a_2.jpg"
    photo.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"1 of 3 .* empty \(0 bytes\), .*0--Parade/a_2.jpg"):
        check_dataset(tmp_path)
    photo.unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 .* are missing, such as '0--Parade/a_2\.jpg'"):
        check_dataset(tmp_path)
    photo.write_bytes(b"jpeg")
    photo.with_name("extra.jpg").write_bytes(b"jpeg")
    with pytest.raises(DatasetError, match="not in the validation set, such as '0--Parade/extra"):
        check_dataset(tmp_path)


def test_another_number_of_faces_is_said(tmp_path):
    save_ground_truth(tmp_path / "eval_tools" / "ground_truth")
    with pytest.raises(DatasetError, match="2 events, 3 photos and 5 faces; expected 61, 3226"):
        check_dataset(tmp_path)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("../images/0--Parade/evil.jpg", "leads outside"),
        ("/images/0--Parade/evil.jpg", "leads outside"),
        ("images/../../0--Parade/evil.jpg", "leads outside"),
        ("..\\evil.jpg", "leads outside"),
        ("link", "is a link"),
    ],
)
def test_nothing_is_unpacked_from_a_hostile_archive(tmp_path, member, said):
    info = zipfile.ZipInfo(member)
    if member == "link":
        info = zipfile.ZipInfo("images/0--Parade/l.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    good = [(f"images/{name}.jpg", b"jpeg") for name in BOXES]
    archive = write_zip(tmp_path / "photos.zip", [*good, (info, b"/etc")])
    with pytest.raises(DatasetError, match=said):
        unpack_photos(archive, tmp_path / "wider")
    assert files_below(tmp_path) == ["photos.zip"]


def test_archives_of_something_else(tmp_path, monkeypatch):
    other = write_zip(tmp_path / "other.zip", [("readme.txt", b"hello")])
    with pytest.raises(DatasetError, match="contains nothing for WIDER_val/images"):
        unpack_photos(other, tmp_path)
    with pytest.raises(DatasetError, match="is not a zip archive"):
        (tmp_path / "no.zip").write_bytes(b"<html>")
        unpack_photos(tmp_path / "no.zip", tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        unpack_photos(tmp_path / "nowhere.zip", tmp_path)
    monkeypatch.setattr(widerface, "LARGEST_ARCHIVE", 11)
    with pytest.raises(DatasetError, match="unpacks to more"):
        unpack_photos(photos_zip(tmp_path / "photos.zip"), tmp_path)


# The real thing --------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("kernel", ["numpy", "cython"])
def test_equals_the_original_evaluator(shared, golden, kernel):
    if kernel not in KERNELS:
        pytest.skip("the Cython kernel is not built here: pip install -e . with a C compiler")
    truth = read_ground_truth(shared / "assets/widerface/ground_truth")
    predictions = read_predictions(shared / "assets/widerface/pred_retinaface_ajmalrasi.tar.gz")
    assert len(truth.images) == widerface.PHOTOS
    assert len(truth.boxes_xywh) == widerface.FACES
    assert len(predictions.scores) == 143_889
    report = evaluate_detections(predictions, truth, kernel=kernel)
    expected = json.loads((golden / "scrfd" / "widerface.json").read_text())
    for level, result in report.levels.items():
        assert abs(result.ap - expected[level]) <= 1e-12
    assert {level: result.faces for level, result in report.levels.items()} == {
        "easy": 7211,
        "medium": 13319,
        "hard": 31958,
    }
    assert report.missing_images == report.unknown_images == report.warnings == ()


PEAK = """
import re, sys
from pathlib import Path
from facezoo.datasets.widerface import read_ground_truth, read_predictions
from facezoo.metrics.detection import evaluate_detections
truth, predictions = read_ground_truth(Path(sys.argv[1])), read_predictions(Path(sys.argv[2]))
evaluate_detections(predictions, truth, kernel=sys.argv[3], per_event=True)
# Not ru_maxrss: a process starts with the peak of the one that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


@pytest.mark.shared
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is there on Linux only")
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_memory_stays_below_200_mib(shared, kernel):
    folder = shared / "assets" / "widerface"
    archive = folder / "pred_retinaface_ajmalrasi.tar.gz"
    command = [sys.executable, "-c", PEAK, str(folder / "ground_truth"), str(archive), kernel]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200


@pytest.mark.shared
def test_the_official_photos_are_complete(shared, tmp_path):
    folder = tmp_path / "eval_tools" / "ground_truth"
    shutil.copytree(shared / "assets" / "widerface" / "ground_truth", folder)
    for name in read_ground_truth(folder).images:
        photo = tmp_path / "WIDER_val" / "images" / f"{name}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(b"jpeg")
    assert check_dataset(tmp_path) == (61, 3226, 39708)
