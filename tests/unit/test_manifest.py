"""Manifests: every photo once, sorted, cut, from every kind of source, in bounded memory."""

import json
import tempfile
import tracemalloc

import numpy as np
import pytest
from facezoo.errors import InputError, RunFolderError
from facezoo.image.files import find_images, relative_names, write_image_rgb

pa = pytest.importorskip("pyarrow", reason="needs the extra scale")
import pyarrow.parquet as pq  # noqa: E402
from facezoo.scale import manifest as module  # noqa: E402
from facezoo.scale.addresses import Found, join, read_bytes  # noqa: E402
from facezoo.scale.manifest import (  # noqa: E402
    Cut,
    Manifest,
    Sources,
    find_photos,
    write_manifest,
)

NAMES = ["a/b.png", "a/2.png", "a.x/1.png", "a/c/z.JPG", "ä ö/1.png", "b.png"]


def made(tmp_path, *given, cut=None, **options):
    """Write a manifest of sources; return it and its rows."""
    sources = Sources([str(one) for one in given], **options)
    run = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
    write_manifest(run, sources.root, find_photos(sources), cut or Cut())
    manifest = Manifest(run)
    return manifest, [row for shard in range(len(manifest)) for row in manifest.rows(shard)]


@pytest.fixture
def photos(tmp_path):
    for index, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image_rgb(path, np.full((8, 8 + index, 3), index, np.uint8))
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "photos" / "notes.txt").write_bytes(b"x")
    return tmp_path / "photos"


def test_a_folder_is_listed_as_predict_lists_it(photos, tmp_path):
    manifest, rows = made(tmp_path, photos)
    paths = find_images(photos)
    assert [row.photo for row in rows] == list(relative_names(paths, photos))
    assert [row.size for row in rows] == [path.stat().st_size for path in paths]
    assert [row.mtime for row in rows] == [path.stat().st_mtime_ns for path in paths]
    assert manifest.root == str(photos)
    assert read_bytes(join(manifest.root, rows[0].photo)) == paths[0].read_bytes()
    assert (manifest.photos, manifest.size) == (6, sum(row.size for row in rows))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("sized", [False, True])
def test_a_table_and_a_list_name_the_same_photos(photos, tmp_path, monkeypatch, suffix, sized):
    paths = find_images(photos)
    columns = {"n": range(len(paths)), "file": [str(path) for path in paths]}
    if sized:
        columns["size"] = [path.stat().st_size for path in paths]
        columns["mtime"] = pa.array([p.stat().st_mtime_ns for p in paths], pa.timestamp("ns"))
        columns["etag"] = ["x"] * len(paths)
    table, path = pa.table(columns), tmp_path / f"list{suffix}"
    if suffix == ".csv":
        pytest.importorskip("pyarrow.csv").write_csv(table, path)
    else:
        pq.write_table(table, path)
    _, of_table = made(tmp_path, path, column="file")
    monkeypatch.chdir(photos)
    lines = [f"{one.relative_to(photos)}\n" for one in reversed(paths)]
    _, of_list = made(tmp_path, "-", lines=iter(lines))
    _, of_files = made(tmp_path, *paths)
    assert [row.photo for row in of_list] == [str(one) for one in paths]
    assert of_files == of_list
    assert [row._replace(etag=None) for row in of_table] == of_list
    assert {row.etag for row in of_table} == {"x" if sized else None}


def test_a_photo_named_twice_is_there_once_and_one_that_is_missing_too(photos, tmp_path):
    lines = [f"{photos}/b.png", f"{photos}/b.png", f"{photos}/nowhere.png", ""]
    manifest, rows = made(tmp_path, "-", lines=lines)
    assert [row.photo for row in rows] == lines[1:3]
    assert (rows[1].size, rows[1].mtime) == (None, None)
    document = json.loads((manifest.folder / "manifest.json").read_text())
    assert (document["photos"], document["duplicates"]) == (2, 1)


def test_shards_end_at_a_size_or_a_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARDS_PER_FILE", 2)
    rows = [Found(f"{index}.jpg", 10) for index in range(9)]
    write_manifest(tmp_path / "a", "", iter(rows), Cut(size=30))
    write_manifest(tmp_path / "b", "", iter(rows), Cut(size=None, count=4))
    assert Manifest(tmp_path / "a").counts == [3, 3, 3]
    by_count = Manifest(tmp_path / "b")
    assert by_count.counts == [4, 4, 1]
    assert [row for shard in range(3) for row in by_count.rows(shard)] == rows
    assert len(list((tmp_path / "b" / "manifest").iterdir())) == 2


def test_pieces_are_merged_in_the_same_order_in_bounded_memory(tmp_path, monkeypatch):
    rows = [Found(f"{index * 7919 % 20011}/{index}.jpg", index, index) for index in range(20011)]
    write_manifest(tmp_path / "whole", "", iter(rows), Cut(count=999))
    monkeypatch.setattr(module, "SORTED_AT_ONCE", 500)
    monkeypatch.setattr(module, "MERGED_AT_ONCE", 10)

    def peak(name, count):
        endless = (Found(f"{i * 7919 % 20011}/{i}.jpg", i, i) for i in range(count))
        tracemalloc.start()
        write_manifest(tmp_path / name, "", endless, Cut(count=999))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak("few", 2011), peak("many", 20011)
    assert many < 2 * few
    for name in ("shards.parquet", "manifest.json", "manifest/00000.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_a_folder_of_another_kind_or_with_a_manifest_is_refused(photos, tmp_path):
    manifest, _ = made(tmp_path, photos)
    with pytest.raises(RunFolderError, match="has a manifest"):
        write_manifest(manifest.folder, "", iter([Found("a")]), Cut())
    with pytest.raises(RunFolderError, match=r"holds '.*' and no manifest"):
        write_manifest(photos, "", iter([Found("a")]), Cut())
    with pytest.raises(InputError, match="no photo was found"):
        write_manifest(tmp_path / "empty", "", iter(()), Cut())
    # What a killed start left is replaced.
    (tmp_path / "killed" / "manifest").mkdir(parents=True)
    tempfile.mkdtemp(prefix=module.SCRATCH, dir=tmp_path / "killed")
    write_manifest(tmp_path / "killed", "", iter([Found("a")]), Cut())
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "manifest",
        "manifest.json",
        "shards.parquet",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "does not exist"),
        ("broken.parquet", "cannot be read as a table"),
        ("other.csv", "has no column 'path'; it has a, b"),
        ("numbers.csv", "expected texts|cannot be read"),
        ("s3://key:secret@bucket/photos", "holds a password"),
        ("nosuch://bucket/photos", "cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "numbers.csv").write_text("path,size\na.jpg,many\n")
    with pytest.raises(InputError, match=said):
        made(tmp_path, given)


def test_a_changed_manifest_is_refused(photos, tmp_path):
    manifest, _ = made(tmp_path, photos)
    path = manifest.folder / "manifest" / "00000.parquet"
    other, _ = made(tmp_path, "-", lines=[f"{photos}/b.png"])
    path.write_bytes((other.folder / "manifest" / "00000.parquet").read_bytes())
    with pytest.raises(InputError, match="has changed since it was written"):
        manifest.rows(0)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"00000\.parquet' cannot be read"):
        manifest.rows(0)
    (manifest.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="write it with facezoo score manifest"):
        Manifest(manifest.folder)
