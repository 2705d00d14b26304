"""The npz route's files: what is written is read back, what does not fit is named and refused."""

import dataclasses
import hashlib
import io
import json
import shutil
import struct
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from facezoo import arrays
from facezoo.arrays import StoredRows, read_npz, write_npz
from facezoo.contract import Contract
from facezoo.errors import ImageError, InputError
from facezoo.image.resize import fit_image
from facezoo.models import find_card
from facezoo.vacc import npz, outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

CARD = find_card("scrfd_500m_bnkps")
CONTRACT = Contract.from_card(CARD, input_hw=(64, 64))


def save(path, **arrays):
    """Write as the vendor's script does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


# Single files ----------------------------------------------------------------------------------


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float16, np.float32, np.int32]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
@settings(max_examples=50)
def test_numpy_reads_what_is_written_and_the_other_way_round(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    write_npz(path, {"output_0": array, "output_1": array[..., ::-1] if array.ndim else array})
    with np.load(path, allow_pickle=False) as loaded:
        assert list(loaded) == ["output_0", "output_1"]
        np.testing.assert_array_equal(loaded["output_0"], array)
        assert loaded["output_0"].dtype == array.dtype
    theirs = save(path.with_name("theirs.npz"), a=array)
    read = read_npz(theirs)["a"]
    np.testing.assert_array_equal(read, array)
    assert (read.dtype, read.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("rows", [0, 1, 6, 7, 20])
def test_rows_in_a_file_are_written_as_an_array(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("facezoo.arrays.STORED_ROWS", 7)
    array = np.random.default_rng(rows).normal(0, 1, (rows, 5)).astype(np.float32)
    stored = StoredRows(tmp_path)
    for row in array:
        stored.append(row)
        assert sum(map(len, stored.blocks())) == stored.shape[0]  # It may be read in between.
    assert list(tmp_path.iterdir()) == []
    names = np.array(["one"])
    written = write_npz(tmp_path / "a.npz", {"names": names, "rows": stored})
    array = array if rows else np.zeros((0, 0), np.float32)
    assert write_npz(tmp_path / "b.npz", {"names": names, "rows": array}) == written
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    if rows:
        for other in (np.zeros(4, np.float32), np.zeros(5)):
            with pytest.raises(ValueError, match="a row is float"):
                stored.append(other)
    stored.close()


def test_the_layout_is_numpys(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    ours, theirs = (
        tmp_path / "ours.npz",
        save(tmp_path / "theirs.npz", input_0=array, input_1=array[0]),
    )
    write_npz(ours, {"input_0": array, "input_1": array[0]})
    with zipfile.ZipFile(ours) as a, zipfile.ZipFile(theirs) as b:
        for mine, its in zip(a.infolist(), b.infolist()):
            for field in set(zipfile.ZipInfo.__slots__) - {"create_version", "extract_version"}:
                assert getattr(mine, field, None) == getattr(its, field, None), field
    # The bytes that differ are the zip version, which Python states differently over time, and in
    # old ones the four sizes that are also in the zip64 field of their members.
    pairs = zip(ours.read_bytes(), theirs.read_bytes())
    assert sum(mine != its for mine, its in pairs) in (0, 6, 6 + 4 * 4)
    assert ours.stat().st_size == theirs.stat().st_size


def test_a_file_depends_on_its_arrays_alone_and_the_hash_is_its(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    first = write_npz(tmp_path / "a.npz", {"output_0": array})
    second = write_npz(tmp_path / "b.npz", {"output_0": array.copy()})
    assert first == second == hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]


def test_compressed_and_fortran_ordered_files_are_read(tmp_path):
    array = np.asfortranarray(np.arange(12).reshape(3, 4))
    np.savez_compressed(tmp_path / "x.npz", a=array)
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")["a"], array)


def forged(path, header, payload=b"\0" * 64, file_size=None):
    """Write an npz whose array header is a lie."""
    text = header.encode().ljust(117) + b"\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input_0.npy", body)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("shape", ["(3, 99999, 99999)", "(4611686018427387904, 8)", "(63,)"])
def test_claims_of_another_size_are_refused_before_anything_is_allocated(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    path = forged(tmp_path / "x.npz", header)
    with pytest.raises(
        InputError, match=r"x\.npz' is not an intact npz file: .* claims to be uint8"
    ):
        read_npz(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1 << 62, 8), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -64), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (8,), }",
        "__import__('os').system('true')",
        "",
    ],
)
def test_headers_that_make_no_sense_are_refused(tmp_path, header):
    path = forged(tmp_path / "x.npz", header)
    with pytest.raises(InputError, match=r"x\.npz' is not an intact npz file"):
        read_npz(path)


def test_threads_parse_one_header_at_a_time(tmp_path, monkeypatch):
    """Python's parser fails now and then if two threads use it at once."""
    write_npz(tmp_path / "a.npz", {"a": np.arange(3)})
    parse, now, most = np.lib.format.read_array_header_1_0, [], []

    def counted(file):
        now.append(file)
        most.append(len(now))
        time.sleep(0.01)
        now.pop()
        return parse(file)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", counted)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(read_npz, [tmp_path / "a.npz"] * 8):
            assert found["a"].tolist() == [0, 1, 2]
    assert most == [1] * 8


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", input_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not an intact npz"):
        read_npz(tmp_path / "x.npz")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGEST_ARRAY", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1001, np.uint8))
    with pytest.raises(InputError, match="claims to be uint8"):
        read_npz(tmp_path / "bomb.npz")
    (tmp_path / "big.npz").write_bytes(b"\0" * 2001)
    with pytest.raises(InputError, match="expected an image"):
        read_npz(tmp_path / "big.npz")


@settings(max_examples=60)
@given(cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_damaged_files_raise_nothing_but_an_input_error(tmp_path_factory, cut, flip):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    write_npz(path, {"input_0": np.arange(48, dtype=np.uint8).reshape(3, 4, 4)})
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: -1 - cut % (len(data) - 1)])
    with pytest.raises(InputError, match=r"x\.npz"):
        read_npz(path)
    data[flip % len(data)] ^= 0xFF
    path.write_bytes(data)
    try:
        read_npz(path)
    except InputError as error:
        assert "x.npz" in str(error)


def test_a_missing_and_a_changed_file_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.npz' cannot be read: No such file"):
        read_npz(tmp_path / "gone.npz")
    write_npz(tmp_path / "x.npz", {"a": np.zeros(1)})
    with pytest.raises(InputError, match=r"x\.npz' is not the file that was recorded"):
        read_npz(tmp_path / "x.npz", "00")


# Pictures in -----------------------------------------------------------------------------------


def test_a_picture_is_written_as_the_vendors_script_does(tmp_path, rng):
    image = rng.integers(0, 256, (7, 5, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    done = npz.convert_picture((tmp_path / "photo.png", "event/photo.npz"), tmp_path / "npz")
    with np.load(tmp_path / "npz/event/photo.npz") as loaded:
        expected = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
        np.testing.assert_array_equal(loaded["input_0"], expected)
    sha256 = hashlib.sha256((tmp_path / "npz/event/photo.npz").read_bytes()).hexdigest()
    assert done == npz.Converted("event/photo.npz", (7, 5), sha256)
    back = npz.read_input(tmp_path / "npz/event/photo.npz", sha256)
    np.testing.assert_array_equal(back, image[..., ::-1])


def test_an_unreadable_picture_is_handed_back(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    assert isinstance(npz.convert_picture((tmp_path / "x.jpg", "x.npz"), tmp_path), ImageError)
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"input_1": np.zeros((3, 4, 4), np.uint8)},
        {"input_0": np.zeros((3, 4, 4), np.float32)},
        {"input_0": np.zeros((4, 4, 3), np.uint8)},
        {"input_0": np.zeros((1, 3, 4, 4), np.uint8)},
        {"input_0": np.zeros((3, 0, 4), np.uint8)},
        {},
    ],
)
def test_an_npz_that_holds_no_picture_is_refused(tmp_path, arrays):
    save(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"x\.npz"):
        npz.read_input(tmp_path / "x.npz")


def test_disk_space_is_estimated_from_the_headers(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((100, 50, 3), np.uint8))
    (tmp_path / "c.png").write_bytes(b"no picture")
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2 * (100 * 50 * 3 + 512)))
    npz.check_disk_space(paths, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2 * (100 * 50 * 3 + 512) - 1))
    with pytest.raises(InputError, match="GB free, and 3 images as npz need"):
        npz.check_disk_space(paths, tmp_path)


def test_the_estimate_is_what_the_files_take(tmp_path, monkeypatch):
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((100, 50, 3), np.uint8))
    npz.convert_picture((image, "a.npz"), tmp_path)
    size = (tmp_path / "a.npz").stat().st_size
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(size - 1))
    with pytest.raises(InputError):
        npz.check_disk_space([image], tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "line 1: '' is not the path"),
        (b"\n", "line 1: '' is not the path"),
        (b"a.npz\n\nb.npz\n", "line 2: '' is not the path"),
        (b"a\0.npz\n", "line 1"),
    ],
)
def test_a_datalist_with_an_empty_line_is_refused(tmp_path, text, match):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(InputError, match=match):
        npz.read_datalist(tmp_path / "list.txt")


def test_a_datalist_may_lack_its_last_line_break_and_have_carriage_returns(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"/x/a b.npz\r\n/x/\xff.npz")
    names = [str(path) for path in npz.read_datalist(tmp_path / "list.txt")]
    assert names == ["/x/a b.npz", "/x/\udcff.npz"]
    with pytest.raises(InputError, match="created with image2npz"):
        npz.read_datalist(tmp_path / "none.txt")


# Pairing ---------------------------------------------------------------------------------------

ITEMS = [
    {"path": "e1/a.jpg", "width": 30, "height": 20, "npz": "e1/a.npz", "sha256": "aa"},
    {"path": "e1/b.jpg", "error": "is empty"},
    {"path": "e2/a.jpg", "width": 10, "height": 40, "npz": "e2/a.npz", "sha256": "bb"},
]


def write_manifest(folder, items=ITEMS, schema=npz.MANIFEST_SCHEMA):
    folder.mkdir(exist_ok=True)
    manifest = {"schema": schema, "root": "/data", "npz_folder": str(folder), "items": items}
    (folder / npz.MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.fixture
def listed(tmp_path):
    write_manifest(tmp_path / "in")
    assert npz.write_datalist(tmp_path / "list.txt", tmp_path / "in") == 2
    return tmp_path / "list.txt"


def test_the_manifest_says_which_line_is_which_picture(listed):
    folder = listed.parent / "in"
    assert listed.read_text() == f"{folder}/e1/a.npz\n{folder}/e2/a.npz\n"
    assert npz.read_pictures(listed) == [
        npz.Picture("e1/a.jpg", (20, 30), "aa", 0),
        npz.Picture("e1/b.jpg", (0, 0), error="is empty"),
        npz.Picture("e2/a.jpg", (40, 10), "bb", 1),
    ]
    assert npz.recorded_hashes(listed) == ["aa", "bb"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[::-1], r"line 1: .*e2/a\.npz', but the manifest says .*e1/a\.npz"),
        (lambda lines: lines[:1], "has 1 lines, its manifest 2"),
        (lambda lines: [*lines, "x.npz"], "has 3 lines, its manifest 2"),
    ],
)
def test_a_list_that_is_not_its_manifests_is_refused(listed, change, match):
    listed.write_text("".join(f"{line}\n" for line in change(listed.read_text().split())))
    with pytest.raises(InputError, match=match):
        npz.read_pictures(listed)


@pytest.mark.parametrize(
    "items",
    [
        "none",
        [{"path": "a.jpg"}],
        [{**ITEMS[0], "width": 0}],
        [{**ITEMS[0], "width": 10**9, "height": 10**9}],
        [{**ITEMS[0], "width": "wide"}],
        [7],
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(listed, items):
    manifest = json.loads((listed.parent / "in" / npz.MANIFEST_FILE).read_text())
    beside = listed.with_name("list.txt.manifest.json")
    beside.write_text(json.dumps({**manifest, "items": items}))
    with pytest.raises(InputError, match=r"list\.txt\.manifest\.json' cannot be parsed"):
        npz.read_pictures(listed)
    for text in ("", "[]", '{"schema": "facezoo.npz/9"}'):
        beside.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json"):
            npz.read_pictures(listed)


@pytest.mark.parametrize("name", ["a\nb.png", "a\rb.png"])
def test_a_name_with_a_line_break_cannot_be_listed(name):
    npz.check_names(["a b.png"])
    with pytest.raises(InputError, match="has a line break"):
        npz.check_names(["a.png", name])


@pytest.fixture
def photos(tmp_path):
    """Pictures whose heights tell them apart."""
    names = ["e1/a.png", "e1/b.png", "e2/a.png", "e2/c.d.png", "e3/c.d.bmp"]
    for height, name in enumerate(names, 1):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / name), np.zeros((height, 9, 3), np.uint8))
    return tmp_path / "photos"


def by_name(photos, *lines):
    datalist = photos.parent / "theirs.txt"
    datalist.write_text("".join(f"{line}\n" for line in lines))
    return [(p.name, p.image_hw[0], p.line) for p in npz.read_pictures(datalist, photos)]


def test_the_vendors_list_is_paired_by_names(photos):
    assert by_name(photos, "/npz/b.npz", "/npz/e1/a.npz", "/npz/e2/a.npz") == [
        ("e1/b.png", 2, 0),
        ("e1/a.png", 1, 1),
        ("e2/a.png", 3, 2),
    ]
    assert by_name(photos, "x/c.d.bmp.npz") == [("e3/c.d.bmp", 5, 0)]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["/npz/a.npz"], r"a\.npz' matches 'e1/a\.png' and 'e2/a\.png'"),
        (["/npz/e9/c.d.npz"], "matches .* and"),
        (["/npz/z.npz"], r"line 1: '/npz/z\.npz' matches no image"),
        (["/npz/b.npz", "/npz/b.npz"], r"line 2: .* and line 1 both match 'e1/b\.png'"),
    ],
)
def test_the_vendors_list_is_refused_where_names_leave_a_doubt(photos, lines, match):
    with pytest.raises(InputError, match=match):
        by_name(photos, *lines)


def test_the_vendors_list_needs_the_pictures(photos):
    (photos.parent / "theirs.txt").write_text("b.npz\n")
    with pytest.raises(InputError, match=r"theirs\.txt\.manifest\.json.*--input_image_dir"):
        npz.read_pictures(photos.parent / "theirs.txt")
    assert npz.recorded_hashes(photos.parent / "theirs.txt") == [""]


# Outputs ---------------------------------------------------------------------------------------


def make_outputs(folder, count, recorded=True, datalist=None):
    """Write outputs 0 to count - 1, whose values are their index."""
    items = []
    for index in range(count):
        arrays = {f"output_{k}": np.full((1, 2, 3), index, np.float16) for k in range(9)}
        name = outputs.output_name(index)
        items.append({"path": name, "sha256": write_npz(folder / name, arrays)})
    if recorded:
        head = outputs.index_head(CONTRACT, "float16", datalist, {"model_sha256": "0" * 64})
        entry = {"schema": outputs.INDEX_SCHEMA, **head, "outputs": items}
        (folder / outputs.INDEX_FILE).write_text(json.dumps(entry))


@pytest.fixture(params=[True, False], ids=["ours", "vendor's"])
def recorded(request):
    return request.param


@pytest.fixture
def folder(tmp_path, recorded):
    datalist = tmp_path / "list.txt"
    datalist.write_text("".join(f"{i}.npz\n" for i in range(12)))
    make_outputs(tmp_path / "out", 12, recorded, datalist)
    return tmp_path / "out"


def read_all(folder):
    opened = outputs.OutputFolder(folder, folder.parent / "list.txt")
    return [opened.arrays(index)[8][0, 0, 0] for index in range(len(opened))]


def test_twelve_outputs_keep_their_order(folder):
    assert read_all(folder) == list(range(12))


def test_a_missing_output_is_named(folder):
    (folder / "output_000007.npz").unlink()
    with pytest.raises(
        InputError, match=r"output_000007\.npz' is missing \(1 of 12\); run vamp again on "
    ):
        read_all(folder)


@pytest.mark.parametrize("name", ["output_000012.npz", "output_7.npz", "stranger.txt"])
def test_an_extra_file_is_named(folder, name):
    shutil.copy(folder / "output_000003.npz", folder / name)
    with pytest.raises(InputError, match=f"{name}' belongs to no line"):
        read_all(folder)


def test_a_truncated_output_is_named(folder):
    path = folder / "output_000004.npz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"output_000004\.npz"):
        read_all(folder)


def test_an_output_of_another_shape_is_named(folder, recorded):
    write_npz(
        folder / "output_000005.npz",
        {f"output_{k}": np.zeros((1, 2, 4), np.float16) for k in range(9)},
    )
    with pytest.raises(InputError, match=r"output_000005\.npz.*run vamp again"):
        read_all(folder)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"output_1": np.zeros((1, 2), np.float16)},
        {"output_0": np.zeros((2, 2), np.float16)},
        {"output_0": np.zeros((1, 2), np.int32)},
        {"output_0": np.float16(1)},
    ],
)
@pytest.mark.parametrize("recorded", [False], indirect=True)
def test_a_file_that_is_no_output_is_named(folder, arrays):
    save(folder / "output_000000.npz", **arrays)
    with pytest.raises(InputError, match=r"output_000000\.npz'.*expected"):
        read_all(folder)


@pytest.mark.parametrize("recorded", [True], indirect=True)
class TestRecorded:
    def test_exchanged_outputs_are_named(self, folder):
        (folder / "output_000002.npz").rename(folder / "x")
        (folder / "output_000009.npz").rename(folder / "output_000002.npz")
        (folder / "x").rename(folder / "output_000009.npz")
        with pytest.raises(
            InputError, match=r"output_000002\.npz' has the content .*output_000009\.npz"
        ):
            read_all(folder)

    def test_a_renamed_output_is_named(self, folder):
        (folder / "output_000011.npz").unlink()
        shutil.copy(folder / "output_000010.npz", folder / "output_000011.npz")
        with pytest.raises(
            InputError, match=r"output_000011\.npz' has the content .*output_000010\.npz"
        ):
            read_all(folder)

    def test_a_stale_output_is_named(self, folder):
        arrays = {f"output_{k}": np.full((1, 2, 3), 99, np.float16) for k in range(9)}
        write_npz(folder / "output_000006.npz", arrays)
        with pytest.raises(InputError, match=r"output_000006\.npz' is not the file.*stale"):
            read_all(folder)

    def test_outputs_of_another_list_are_refused(self, folder):
        (folder.parent / "list.txt").write_text("".join(f"b{i}.npz\n" for i in range(12)))
        with pytest.raises(InputError, match="belongs to another list"):
            read_all(folder)

    def test_an_index_of_more_outputs_is_refused(self, folder):
        entry = json.loads((folder / outputs.INDEX_FILE).read_text())
        entry["outputs"].append({"path": outputs.output_name(12), "sha256": "0" * 64})
        (folder / outputs.INDEX_FILE).write_text(json.dumps(entry))
        with pytest.raises(InputError, match="belongs to another list"):
            read_all(folder)

    @pytest.mark.parametrize("key", ["outputs", "contract", "datalist_sha256"])
    def test_an_index_without_an_entry_is_refused(self, folder, key):
        entry = json.loads((folder / outputs.INDEX_FILE).read_text())
        del entry[key]
        (folder / outputs.INDEX_FILE).write_text(json.dumps(entry))
        with pytest.raises(InputError, match=r"vamp\.json' does not match"):
            read_all(folder)

    def test_an_unfinished_folder_is_refused(self, folder):
        (folder / ".items.jsonl").write_text("")
        with pytest.raises(InputError, match="is unfinished; run the same vamp command again"):
            read_all(folder)

    def test_the_contract_is_the_one_that_ran(self, folder):
        opened = outputs.OutputFolder(folder, folder.parent / "list.txt")
        assert opened.contract == CONTRACT
        assert opened.contract_for([CARD]) == CONTRACT
        assert opened.contract_for([CARD], (64, 64)) == CONTRACT
        with pytest.raises(InputError, match="at height 64, width 64; expected scrfd at"):
            opened.contract_for([CARD], (640, 640))
        with pytest.raises(InputError, match=r"made by scrfd_500m_bnkps.*expected other"):
            opened.contract_for([dataclasses.replace(CARD, model="other")])


@pytest.mark.parametrize("recorded", [False], indirect=True)
def test_the_vendors_outputs_are_told_apart_by_their_number(folder):
    opened = outputs.OutputFolder(folder, folder.parent / "list.txt")
    cards = [find_card("scrfd_34g"), CARD]
    assert opened.contract_for(cards, (320, 320)) == Contract.from_card(CARD, input_hw=(320, 320))
    with pytest.raises(InputError, match="has 9 outputs per image; expected scrfd with 6"):
        opened.contract_for(cards[:1])


def test_raw_outputs_are_what_a_backend_gives(folder):
    opened = outputs.OutputFolder(folder, folder.parent / "list.txt")
    picture = npz.Picture("a.jpg", (37, 91), line=3)
    raw = opened.raw_outputs(picture, CONTRACT)
    assert tuple(raw.arrays) == CARD.output_names
    assert {(a.dtype, a.shape, a[0, 0, 0]) for a in raw.arrays.values()} == {
        (np.dtype(np.float32), (1, 2, 3), 3.0)
    }
    expected = fit_image(np.zeros((37, 91, 3), np.uint8), CONTRACT.preprocess)[1]
    assert raw.placements == (expected,)
    with pytest.raises(InputError, match="has 9 outputs; expected 1: score"):
        opened.raw_outputs(picture, dataclasses.replace(CONTRACT, output_names=("score",)))


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.npz\n")
    with pytest.raises(InputError, match="is not a folder; expected the --path_output of vamp"):
        outputs.OutputFolder(tmp_path / "list.txt", tmp_path / "list.txt")
