"""The tables of faces and photos: what predict --parquet writes, and what others read back."""

import json

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import InputError
from facezoo.image.files import write_image_rgb
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa

pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra scale")
tables = pytest.importorskip("facezoo.scale.tables")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Photos with faces, without, and unreadable ones, through all stages."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(5)
    for index in range(4):
        image = rng.integers(0, 60, (90, 120, 3), np.uint8)
        image[20:50, 20 * index : 20 * index + 30] = 250 if index != 2 else 0
        write_image_rgb(folder / "photos" / f"{index}.png", image)
    (folder / "photos" / "4.png").write_bytes(b"no image")
    stages = {
        "--detector": tiny_scrfd(folder / "detector.onnx"),
        "--landmarks": tiny_pipnet(folder / "landmarks.onnx"),
        "--quality": tiny_sdd_fiqa(folder / "quality.onnx"),
        "--embedder": tiny_magface(folder / "embedder.onnx"),
    }
    words = [word for pair in stages.items() for word in map(str, pair)]
    limits = ["--min-size", "0", "--min-sharpness", "0", "--max-yaw", "1.5"]
    limits += ["--max-truncation", "1"]
    command = ["predict", str(folder / "photos"), "--output", str(folder / "out"), "--parquet"]
    assert main([*command, *words, *limits, "--quiet"]) == 1
    return folder


def entries(folder):
    lines = (folder / "out" / "faces.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_tables_hold_what_the_lines_hold(predicted):
    faces = pq.read_table(predicted / "out" / "faces.parquet").to_pylist()
    photos = pq.read_table(predicted / "out" / "photos.parquet").to_pylist()
    expected = entries(predicted)
    vectors = np.load(predicted / "out" / "embeddings.npz")["vectors"]
    listed = [(entry["path"], face) for entry in expected for face in entry.get("faces", ())]
    assert len(faces) == len(listed) > 5
    assert {bool(face["reasons"]) for face in faces} == {True, False}
    for row, (photo, face) in zip(faces, listed):
        assert row["photo"] == photo
        assert row["box"] == face["box_xyxy"]
        assert row["points"] == np.ravel(face["landmarks_xy"]).tolist()
        assert row["landmarks"] == np.ravel(face["points_xy"]).tolist()
        assert row["reasons"] == face["reasons"]
        for name in ("score", "size", "sharpness", "yaw", "truncation", "quality", "magnitude"):
            assert row[name] == (name in face and np.float32(face[name])) or row[name] is None
            assert (row[name] is None) == (name not in face)
        if face["embedding"] is None:
            assert len(row["embedding"]) == 512 and np.isnan(row["embedding"]).all()
        else:
            assert row["embedding"] == vectors[face["embedding"]].tolist()
    assert [row["photo"] for row in photos] == [entry["path"] for entry in expected]
    assert [row["faces"] for row in photos] == [len(e.get("faces", ())) for e in expected]
    assert [row["status"] for row in photos] == ["scored"] * 4 + ["unreadable"]
    assert [row["size"] for row in photos] == [
        (predicted / "photos" / entry["path"]).stat().st_size for entry in expected
    ]
    assert [(row["width"], row["height"]) for row in photos] == [(120, 90)] * 4 + [(None, None)]
    assert photos[-1]["error"] == expected[-1]["error"]


def test_the_version_and_the_models_are_in_each_file(predicted):
    for name, schema in (("faces", tables.FACES), ("photos", tables.PHOTOS)):
        with tables.open_table(predicted / "out" / f"{name}.parquet", schema) as file:
            metadata = file.schema_arrow.metadata
        models = json.loads(metadata[b"facezoo.settings"])
        assert models["embedder"]["model"] == "w600k_mbf"
        assert len(models["embedder"]["model_sha256"]) == 64
    with pytest.raises(InputError, match=r"expected 'facezoo\.faces/1'"):
        tables.open_table(predicted / "out" / "photos.parquet", tables.FACES)
    broken = predicted / "broken.parquet"
    broken.write_bytes((predicted / "out" / "faces.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"broken\.parquet' cannot be read"):
        tables.open_table(broken, tables.FACES)


def by_pandas(path):
    pandas = pytest.importorskip("pandas")
    return pandas.read_parquet(path).to_dict("list")


def by_polars(path):
    polars = pytest.importorskip("polars")
    return polars.read_parquet(path).to_dict(as_series=False)


def by_duckdb(path):
    duckdb = pytest.importorskip("duckdb")
    return duckdb.sql(f"select * from '{path}'").fetchdf().to_dict("list")


@pytest.mark.parametrize("dtype", tables.DTYPES)
@pytest.mark.parametrize("read", [by_pandas, by_polars, by_duckdb])
def test_other_packages_read_the_same(predicted, tmp_path, read, dtype):
    paths = tmp_path / "faces.parquet", tmp_path / "photos.parquet"
    vector = np.load(predicted / "out" / "embeddings.npz")["vectors"]
    with tables.TableWriter(*paths, tables.Columns(98, 512, dtype), {}) as table:
        for entry in entries(predicted):
            for face in entry.get("faces", ()):
                if face["embedding"] is not None:
                    data = vector[face["embedding"]].tobytes()
                    face["vector"] = tables.base64.b64encode(data).decode()
            table.add(entry, 7)
    for path in paths:
        found, expected = read(path), pq.read_table(path).to_pydict()
        assert list(found) == list(expected)
        for name, values in expected.items():
            for one, other in zip(found[name], values):
                if other is None:
                    assert one is None or one != one
                elif isinstance(other, list):
                    np.testing.assert_array_equal(one, other)
                else:
                    assert one == other, name


def test_groups_of_rows_do_not_depend_on_how_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FACES_PER_GROUP", 3)
    monkeypatch.setattr(tables, "PHOTOS_PER_GROUP", 2)
    face = {"box_xyxy": [0, 0, 1, 1], "score": 0.5, "landmarks_xy": [], "reasons": []}
    with tables.TableWriter(tmp_path / "f", tmp_path / "p", tables.Columns(), {}) as table:
        for index in range(5):
            table.add({"path": str(index), "faces": [face] * index}, None)
        assert (table.faces, table.counts["scored"]) == (10, 5)
    groups = [pq.ParquetFile(tmp_path / name).metadata for name in ("f", "p")]
    sizes = [[one.row_group(i).num_rows for i in range(one.num_row_groups)] for one in groups]
    assert sizes == [[3, 3, 3, 1], [2, 2, 1]]
    # pyarrow before 26 reads no list of fixed size that is null.
    points = pq.read_table(tmp_path / "f")["points"]
    assert points.null_count == 0 and np.isnan(points.to_pylist()).all()


def test_nothing_is_left_of_tables_that_fail(tmp_path):
    columns = tables.Columns()
    with pytest.raises(KeyError), tables.TableWriter(
        tmp_path / "f", tmp_path / "p", columns, {}
    ) as table:
        table.add({"path": "a", "faces": [{"score": 1.0}]}, None)
    with pytest.raises(ZeroDivisionError), tables.TableWriter(
        tmp_path / "f", tmp_path / "p", columns, {}
    ):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
