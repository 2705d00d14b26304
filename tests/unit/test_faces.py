"""EmbeddedFaces with embeddings, from tables of bulk scoring, of predict, and from photos."""

import json
from importlib import import_module

import numpy as np
import pytest
from facezoo.cli.main import main

pytest.importorskip("pyarrow", reason="needs the extra gallery")
pytest.importorskip("faiss", reason="needs the extra gallery")
pq = pytest.importorskip("pyarrow.parquet")
from bulk import LIMITS, STAGES, make_run, predicted  # noqa: E402
from facezoo.errors import BackendUnavailable, InputError  # noqa: E402
from facezoo.people.faces import (  # noqa: E402
    ARRAYS,
    EmbeddedFaces,
    Space,
    faces_of_photos,
    find_tables,
    read_faces,
)
from facezoo.pipeline.acceptance import Acceptance  # noqa: E402
from facezoo.pipeline.load import load  # noqa: E402
from facezoo.pipeline.photo import Predictor  # noqa: E402
from facezoo.profiles.appearance import AppearanceLimits  # noqa: E402
from facezoo.scale.tables import SETTINGS_KEY  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, one of which is no image; the tables of a run and of predict."""
    folder = tmp_path_factory.mktemp("faces")
    make_run(folder)
    (folder / "photos" / "1" / "x.png").write_bytes(b"no image")
    from bulk import write_run

    run = write_run(folder, 5, "run5")
    words = [str(folder / word) if word.endswith(".onnx") else word for word in (*STAGES, *LIMITS)]
    assert main(["score", "run", str(run), "--threads", "1", "--quiet", *words]) == 1
    predicted(folder)
    return folder


def open_chain(folder, **options):
    return Predictor(
        load(folder / "detector.onnx", engine="ort", threads=1),
        embedder=load(folder / "embedder.onnx", engine="ort", threads=1, **options),
        acceptance=Acceptance(AppearanceLimits(0.0, 0.0, 9.0, 1.0), ()),
    )


def same(one, other):
    assert one.photos == other.photos and one.left_out == other.left_out
    assert one.space == other.space
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_tables_of_a_run_of_predict_and_photos_are_the_same_faces(folder):
    of_run = read_faces(folder / "run5")
    same(of_run, read_faces(folder / "predicted"))
    same(of_run, read_faces(folder / "predicted" / "faces.parquet"))
    paths = sorted(path for path in (folder / "photos").rglob("*.png"))
    names = [path.relative_to(folder / "photos").as_posix() for path in paths]
    with open_chain(folder) as chain:
        same(of_run, faces_of_photos(chain, paths, names))
    assert of_run.vectors.shape[1] == 512
    why = {(one.photo, one.face): one.why for one in of_run.left_out}
    assert why["1/x.png", None] == "is not a readable image"
    assert why["0/000.png", 2] == "upside_down"
    np.testing.assert_allclose(of_run.magnitude, np.linalg.norm(of_run.vectors, axis=1), rtol=1e-5)


def test_merged_tables_in_several_files_are_the_same_faces(folder):
    assert (
        main(
            ["score", "merge", str(folder / "run5"), "-o", str(folder / "many")]
            + ["--photos-per-file", "4"]
        )
        == 0
    )
    assert len(find_tables(folder / "many")) == 4
    same(read_faces(folder / "run5"), read_faces(folder / "many"))


def test_a_flip_is_another_space_and_is_named(folder):
    with open_chain(folder) as one, open_chain(folder, flip="sum") as other:
        space, flipped = (Space.of(chain.settings()) for chain in (one, other))
    space.refuse_other(space, "a", "b")
    with pytest.raises(InputError, match=r"a and b cannot be compared.*: flip none against sum"):
        space.refuse_other(flipped, "a", "b")
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    with pytest.raises(InputError, match=r"do not say what made them: space.flip is 'twice'"):
        Space.from_dict({**space.to_dict(), "flip": "twice"})


def test_what_is_no_table_of_embeddings_is_refused_by_name(folder, tmp_path):
    with pytest.raises(InputError, match="holds no scores"):
        read_faces(tmp_path)
    with pytest.raises(InputError, match="expected one"):
        read_faces(make_run(tmp_path / "never"))
    for name in ("faces.parquet", "photos.parquet"):
        (tmp_path / name).write_bytes((folder / "predicted" / name).read_bytes())
    table = pq.read_table(tmp_path / "faces.parquet")
    without = table.drop_columns(["embedding"])
    pq.write_table(without, tmp_path / "faces.parquet")
    with pytest.raises(InputError, match="it has no embeddings; score the photos with --embedder"):
        read_faces(tmp_path)
    settings = json.loads(table.schema.metadata[SETTINGS_KEY])
    del settings["embedder"]
    metadata = {**table.schema.metadata, SETTINGS_KEY: json.dumps(settings).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "faces.parquet")
    with pytest.raises(InputError, match="there are no embeddings: no embedder ran"):
        read_faces(tmp_path)
    pq.write_table(table, tmp_path / "faces.parquet")
    photos = pq.read_table(tmp_path / "photos.parquet")
    pq.write_table(photos.slice(1), tmp_path / "photos.parquet")
    with pytest.raises(InputError, match=r"the table of photos lacks '0/000.png'"):
        read_faces(tmp_path)
    pq.write_table(table.drop_columns(["reasons"]), tmp_path / "faces.parquet")
    with pytest.raises(InputError, match=r"has other columns than facezoo score writes .*reasons"):
        read_faces(tmp_path)


def test_a_run_that_is_not_finished_is_refused(folder):
    run = folder / "run5"
    receipt = sorted(run.glob("receipts/*/*.json"))[0]
    content = receipt.read_bytes()
    receipt.unlink()
    try:
        with pytest.raises(InputError, match=r"is not finished: shard . is not scored"):
            read_faces(run)
    finally:
        receipt.write_bytes(content)


def some_faces(photos, boxes, vectors=None, quality=None, magnitude=None, sides=(100, 100)):
    count = len(photos)
    return EmbeddedFaces(
        photos=tuple(photos),
        index=np.arange(count, dtype=np.int32),
        vectors=np.ones((count, 4), np.float32) if vectors is None else vectors,
        boxes=np.array(boxes, np.float32),
        scores=np.full(count, 0.9, np.float32),
        magnitude=np.array(magnitude or [2.0] * count, np.float32),
        quality=np.array(quality or [np.nan] * count, np.float32),
        sides=np.tile(np.array(sides, np.int32), (count, 1)),
        space=Space("w600k_mbf", "0" * 64, {}),
    )


def test_one_face_per_photo_is_the_central_or_the_largest():
    # By hand: the middles are 10, 50 and 45 from the corner; the sides 20, 10 and 30 pixels.
    boxes = [[0, 0, 20, 20], [45, 45, 55, 55], [30, 30, 60, 60]]
    faces = some_faces(["a", "a", "b"], boxes)
    assert faces.one_per_photo("central").index.tolist() == [1, 2]
    assert faces.one_per_photo("largest").index.tolist() == [0, 2]


def test_weights_are_the_qualities_if_all_have_one_else_the_magnitudes():
    boxes = [[0, 0, 1, 1]] * 3
    faces = some_faces("abc", boxes, quality=[50.0, -3.0, 20.0], magnitude=[3.0, 4.0, 5.0])
    assert faces.weights.tolist() == [50.0, 0.5, 20.0]
    faces = some_faces("abc", boxes, quality=[50.0, np.nan, 20.0], magnitude=[3.0, 4.0, 5.0])
    assert faces.weights.tolist() == [3.0, 4.0, 5.0]
    np.testing.assert_allclose(np.linalg.norm(faces.units, axis=1), 1.0)


def test_an_embedding_of_zeros_is_named(folder, tmp_path):
    for name in ("faces.parquet", "photos.parquet"):
        (tmp_path / name).write_bytes((folder / "predicted" / name).read_bytes())
    import pyarrow as pa

    table = pq.read_table(tmp_path / "faces.parquet")
    column = table.schema.get_field_index("embedding")
    kind = table.schema.field("embedding").type
    zeros = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(len(table) * kind.list_size, np.float32)), type=kind
    )
    pq.write_table(
        table.set_column(column, table.schema.field(column), zeros), tmp_path / "faces.parquet"
    )
    with pytest.raises(
        InputError, match=r"'0/000.png' has an embedding that is zero or not finite"
    ):
        read_faces(tmp_path)


def test_without_the_packages_one_sentence_says_what_to_install(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("facezoo.people")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendUnavailable, match="galleries and clusters need pyarrow, faiss"):
        import_module("facezoo.people")
