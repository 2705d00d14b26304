"""insightface's record files: what the writer makes is read, what is damaged is named."""

import struct

import numpy as np
import pytest
from facezoo.datasets.recordio import MAGIC, RecordFile
from facezoo.errors import DatasetError
from hypothesis import given, settings
from hypothesis import strategies as st

MAGIC_BYTES = struct.pack("<I", MAGIC)


def encode(data):
    """Return a record as MXNet's writer puts it: split where whole words equal the magic."""
    parts, start = [], 0
    for index in range(0, len(data) // 4 * 4, 4):
        if data[index : index + 4] == MAGIC_BYTES:
            parts.append(data[start:index])
            start = index + 4
    parts.append(data[start:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    encoded = b"".join(
        MAGIC_BYTES + struct.pack("<I", kind << 29 | len(part)) + part
        for kind, part in zip(kinds, parts)
    )
    return encoded + bytes(-len(data) % 4)


def pack(labels, image=b"", key=0):
    """Return labels and a picture as MXNet packs them."""
    if isinstance(labels, (int, float)):
        return struct.pack("<IfQQ", 0, labels, key, 0) + image
    return (
        struct.pack("<IfQQ", len(labels), 0.0, key, 0)
        + struct.pack(f"<{len(labels)}f", *labels)
        + image
    )


def write(folder, records, keys=None):
    rec, starts = b"", []
    for record in records:
        starts.append(len(rec))
        rec += encode(record)
    keys = range(len(records)) if keys is None else keys
    (folder / "train.rec").write_bytes(rec)
    (folder / "train.idx").write_text("".join(f"{k}\t{s}\n" for k, s in zip(keys, starts)))
    return folder / "train.rec"


def training_set(folder):
    """Write three pictures of two people, as insightface's sets are laid out."""
    return write(
        folder,
        [
            pack([4.0, 6.0]),
            pack(0, b"first"),
            pack([0.0, 0.0], b"second!"),
            pack(1, b"third"),
            pack([1.0, 3.0]),
            pack([3.0, 4.0]),
        ],
    )


def test_pictures_and_people_are_read(tmp_path):
    with RecordFile(training_set(tmp_path)) as records:
        assert len(records) == 3
        found = [(record.key, record.label, record.image) for record in records]
        assert found == [(1, 0, b"first"), (2, 0, b"second!"), (3, 1, b"third")]
        assert list(records.people()) == [(4, range(1, 3)), (5, range(3, 4))]
        assert records.read(3).image == b"third"


def test_a_set_without_its_index_is_searched_for_records(tmp_path, caplog):
    path = training_set(tmp_path)
    with RecordFile(path) as records:
        expected, people = list(records), list(records.people())
    path.with_suffix(".idx").unlink()
    with RecordFile(path) as records:
        assert list(records) == expected
        assert list(records.people()) == people
    assert "train.idx does not exist; " in caplog.text
    assert "train.rec has 6 records, numbered in their order" in caplog.text


def test_a_set_without_a_leading_record_is_read_as_it_is(tmp_path):
    path = write(tmp_path, [pack(5, b"a"), pack([6.0, 0.0], b"bc")], keys=[7, 3])
    with RecordFile(path) as records:
        assert [(r.key, r.label, r.image) for r in records] == [(3, 6, b"bc"), (7, 5, b"a")]
        assert list(records.people()) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([MAGIC_BYTES, b"\n\x23\xd7", b"a", b"word"]), max_size=12))
def test_pictures_that_hold_the_magic_number_come_back(tmp_path_factory, pieces):
    image = b"\xff" + b"".join(pieces)
    path = write(tmp_path_factory.mktemp("set"), [pack(0, image), pack(1, b"next")])
    for _ in range(2):
        with RecordFile(path) as records:
            assert [record.image for record in records] == [image, b"next"]
        path.with_suffix(".idx").unlink(missing_ok=True)


def damaged(change):
    def make(folder):
        path = training_set(folder)
        change(path, folder / "train.idx")
        return path

    return make


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def patch(path, place, data):
    content = bytearray(path.read_bytes())
    content[place : place + len(data)] = data
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged(lambda rec, idx: rec.unlink()), "train.rec': cannot be read"),
        (damaged(lambda rec, idx: (idx.unlink(), rec.unlink())), "train.rec': cannot be read"),
        (damaged(lambda rec, idx: (idx.unlink(), cut(rec, 0))), "train.rec': is empty"),
        (
            damaged(lambda rec, idx: (idx.unlink(), cut(rec, 150))),
            "images end before 4 and people before 6, but keys go up to 3; the file is cut short",
        ),
        (
            damaged(lambda rec, idx: (idx.unlink(), patch(rec, 40, b"\0"))),
            "no record starts at byte 40",
        ),
        (damaged(lambda rec, idx: idx.write_text("")), "is empty"),
        (damaged(lambda rec, idx: idx.write_text("0\t0\n1 x\n")), "line 2 is '1 x'"),
        (damaged(lambda rec, idx: idx.write_text("0 0 0\n")), "line 1 is '0 0 0'"),
        (damaged(lambda rec, idx: idx.write_text("0 -4\n")), "line 1 is '0 -4'"),
        (damaged(lambda rec, idx: idx.write_text("0 " + "9" * 5000)), "line 1 is '0 999"),
        (damaged(lambda rec, idx: idx.write_text("0 0\n1 40\n1 80\n")), "key 1 has two records"),
        (damaged(lambda rec, idx: idx.write_text("0 4\n")), "no record starts at byte 4"),
        (damaged(lambda rec, idx: idx.write_text("0 99999\n")), "no record starts at byte 99999"),
        (damaged(lambda rec, idx: cut(rec, 20)), "the record at byte 0 is cut short: 12 of 32"),
        (damaged(lambda rec, idx: cut(rec, 0)), "no record starts at byte 0"),
        (damaged(lambda rec, idx: patch(rec, 4, b"\4\0\0\0")), "record 0 has 4 bytes, expected"),
        (damaged(lambda rec, idx: patch(rec, 8, b"\xff\xff\xff\xff")), "claims 4294967295 labels"),
        (damaged(lambda rec, idx: patch(rec, 7, b"\x40")), "no record starts at byte 0"),
        (damaged(lambda rec, idx: patch(rec, 7, b"\x20")), "no record starts at byte 0"),
        (lambda folder: write(folder, [pack([9.0, 9.0]), pack(0, b"a")]), "images end before 9"),
        (lambda folder: write(folder, [pack([np.nan, 2.0]), pack(0, b"a")]), "end before nan"),
        (lambda folder: write(folder, [pack([2.0, 1.0]), pack(0, b"a")]), "people before 1"),
        (lambda folder: write(folder, [pack(0, b"a"), pack(0.5, b"b")]), "record 1 .* label 0.5"),
        (lambda folder: write(folder, [pack(0, b"a"), pack(-1, b"b")]), "record 1 .* label -1"),
        (lambda folder: write(folder, [pack(0, b"a"), pack(np.nan, b"b")]), "label nan"),
        (lambda folder: write(folder, [pack(0, b"a"), pack(0)]), "record 1 has 0 bytes"),
    ],
)
def test_damaged_sets_are_refused_by_name(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(DatasetError, match=message), RecordFile(path) as records:
        for _ in records:
            pass


def test_a_person_that_names_other_pictures_is_refused(tmp_path):
    path = write(tmp_path, [pack([2.0, 3.0]), pack(0, b"a"), pack([1.0, 9.0])])
    with RecordFile(path) as records, pytest.raises(DatasetError, match="a range of the images 1"):
        list(records.people())


def test_a_key_that_is_not_there_is_refused(tmp_path):
    with RecordFile(training_set(tmp_path)) as records:
        for key in (6, -1):
            with pytest.raises(DatasetError, match=f"has no key {key}"):
                records.read(key)


def test_the_file_is_closed(tmp_path):
    with RecordFile(training_set(tmp_path)) as records:
        pass
    with pytest.raises(ValueError, match="closed"):
        records.read(1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 250), st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(tmp_path_factory, place, value):
    path = training_set(tmp_path_factory.mktemp("set"))
    patch(path, place, bytes([value]))
    try:
        with RecordFile(path) as records:
            list(records)
            list(records.people())
    except DatasetError as error:
        assert "train.rec" in str(error)
