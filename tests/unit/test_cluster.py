"""``facezoo cluster``: photos, tables and earlier results give the same people."""

import csv
import json
import shutil

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.files import sha256_of
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.testing import tiny_magface, tiny_scrfd

pytest.importorskip("pyarrow", reason="needs the extra gallery")
pytest.importorskip("faiss", reason="needs the extra gallery")
import pyarrow.parquet as pq
from facezoo.people.clustered import read_people
from facezoo.scale.tables import SCHEMA_KEY, SETTINGS_KEY

PEOPLE, PHOTOS = 4, 3
# The tiny network gives all bright squares nearly the same embedding.
THRESHOLD = 0.997
STRICT = ("--threshold", str(THRESHOLD))
LIMITS = ("--min-size", "0", "--min-sharpness", "0", "--max-yaw", "9", "--max-truncation", "1")


def write_photo(path, *persons, shift=0):
    """Write a photo with a bright square for each person, each with a texture of its own."""
    image = np.full((70, 130, 3), 12, np.uint8)
    for place, person in enumerate(persons):
        texture = np.random.default_rng(person).integers(190, 251, (4, 4, 3), np.uint8)
        left = 10 + 60 * place + shift
        image[20:52, left : left + 32] = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    write_image_rgb(path, image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    for person in range(PEOPLE):
        for photo in range(PHOTOS):
            write_photo(folder / "photos" / f"s{person}" / f"{photo}.png", person, shift=photo)
    write_photo(folder / "photos" / "both.png", 0, 1)
    write_photo(folder / "photos" / "none.png")
    tiny_scrfd(folder / "detector.onnx")
    tiny_magface(folder / "embedder.onnx")
    return folder


@pytest.fixture
def cluster(folder, tmp_path):
    def run(*inputs, to="out", more=STRICT, code=0):
        models = ("--detector", folder / "detector.onnx", "--embedder", folder / "embedder.onnx")
        words = (*inputs, "--output", tmp_path / to, "--engine", "ort", *models, *LIMITS, *more)
        assert main(["cluster", *map(str, words)]) == code
        return tmp_path / to

    return run


def rows(out):
    with (out / "people.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def kept(out):
    """Return the rows of the faces that were not left out; the tiny detector finds others, too."""
    return [row for row in rows(out) if row["person"]]


def person_of(out):
    return {(row["photo"], row["face"]): row["person"] for row in kept(out)}


def results(out):
    return [(out / name).read_bytes() for name in ("people.csv", "people.parquet")]


@pytest.mark.shared
def test_the_people_of_real_photos_are_found(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("scrfd/scrfd_500m_bnkps.onnx", "recognition/w600k_mbf.onnx"):
        (tmp_path / "home" / name.rpartition("/")[2]).symlink_to(shared / "assets" / name)
    faces = shared / "assets" / "att_faces"
    for person in range(1, 7):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"s{person}").symlink_to(faces / f"s{person}")
    assert main(["cluster", str(tmp_path / "photos"), "-o", str(tmp_path / "out")]) == 0
    found = kept(tmp_path / "out")
    pairs = {(row["photo"].split("/")[0], row["person"]) for row in found}
    assert len(pairs) == len({person for _, person in pairs}) == 6
    assert len(found) >= 58
    assert "people: 6, 0 of them with one face" in capsys.readouterr().out


def test_people_are_found_with_sheets_and_a_page(folder, cluster, capsys):
    out = cluster(folder / "photos")
    found = kept(out)
    assert list(found[0])[:3] == ["photo", "face", "person"]
    said = capsys.readouterr().out
    people = sorted({row["person"] for row in found}, key=int)
    assert f"{len(rows(out))} faces, {len(rows(out)) - len(found)} left out; " in said
    assert f"; people: {len(people)}, " in said
    sheets = sorted(path.name for path in (out / "people").iterdir())
    assert sheets == [f"{person}.jpg" for person in people]
    page = (out / "people.html").read_text("utf-8")
    assert all(f'src="people/{name}"' in page for name in sheets)
    assert "none.png" in page and "no face was found" in page
    # The same command again does nothing, and says the same.
    before = results(out)
    cluster(folder / "photos")
    assert f"; people: {len(people)}, " in capsys.readouterr().out
    assert results(out) == before


def test_a_sheet_shows_the_faces_of_its_person(folder, cluster):
    out = cluster(folder / "photos")
    person = next(row["person"] for row in kept(out) if row["photo"] == "s2/0.png")
    sheet = read_image_rgb(out / "people" / f"{person}.jpg").astype(int)
    face = read_image_rgb(folder / "photos" / "s2" / "0.png")[20:52, 10:42].astype(int)
    # Cells are 112 pixels wide; the middle of the first one is the middle of a face.
    middle = sheet[8 + 50 : 8 + 62, 8 + 50 : 8 + 62].mean(axis=(0, 1))
    assert np.abs(middle - face[12:20, 12:20].mean(axis=(0, 1))).max() < 25


def test_two_faces_of_one_photo_are_two_people(folder, cluster, tmp_path):
    write_photo(tmp_path / "twins" / "a.png", 5, 5)
    write_photo(tmp_path / "twins" / "b.png", 5)
    found = kept(cluster(tmp_path / "twins"))
    twins = [row["person"] for row in found if row["photo"] == "a.png"]
    assert len(twins) == len(set(twins)) == 2
    page = (tmp_path / "out" / "people.html").read_text("utf-8")
    assert "in one photo" in page


def test_the_order_of_the_inputs_is_no_matter(folder, cluster):
    photos = sorted((folder / "photos").rglob("*.png"))
    one = cluster(*photos, to="one")
    other = cluster(*photos[::-1], to="other")
    assert results(one) == results(other)


def test_adding_photos_gives_what_all_give(folder, cluster, tmp_path, caplog):
    photos = tmp_path / "growing"
    for name in ("s0/0.png", "s1/0.png", "s1/1.png", "s3/2.png", "both.png", "none.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "photos" / name, photos / name)
    first = cluster(photos, to="first")
    shutil.copytree(folder / "photos", photos, dirs_exist_ok=True)
    # One photo has been replaced by another of the same name.
    write_photo(photos / "s1" / "1.png", 7)
    write_photo(tmp_path / "all" / "s1" / "1.png", 7)
    second = cluster(first, photos, to="second")
    whole = cluster(photos, to="whole")
    assert results(second) == results(whole)
    known = read_people(second / "people.parquet")
    assert sorted(known.contents) == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png")
    )


def test_known_photos_are_not_scored_again(folder, cluster, monkeypatch):
    first = cluster(folder / "photos", to="first")
    scored = []
    from facezoo.pipeline.photo import Predictor

    stream = Predictor.stream

    def counting(self, paths, **options):
        scored.extend(paths)
        return stream(self, paths, **options)

    monkeypatch.setattr(Predictor, "stream", counting)
    second = cluster(first, folder / "photos", to="second")
    assert scored == []
    assert results(second) == results(first)
    # With other limits what was refused is unknown.
    cluster(first, folder / "photos", to="third", more=(*STRICT, "--min-size", "1"))
    assert len(scored) == len(list((folder / "photos").rglob("*.png")))


def test_tables_give_the_same_people(folder, cluster, tmp_path, caplog):
    models = ("--detector", folder / "detector.onnx", "--embedder", folder / "embedder.onnx")
    words = (folder / "photos", "--output", tmp_path / "predicted", "--parquet", "--engine", "ort")
    assert main(["predict", *map(str, (*words, *models, *LIMITS)), "--quiet"]) == 0
    out = cluster(tmp_path / "predicted")
    assert "have no contact sheet, since their photos are not there" in caplog.text
    assert person_of(out) == person_of(cluster(folder / "photos", to="photos"))
    assert not (out / "people").exists()
    more = (*STRICT, "--photos", folder / "photos")
    assert len(list((cluster(tmp_path / "predicted", to="drawn", more=more) / "people").iterdir()))


def test_a_gallery_gives_the_same_people(folder, cluster, tmp_path):
    people = tmp_path / "people"
    for name in ("s0", "s1"):
        shutil.copytree(folder / "photos" / name, people / name)
    models = ("--detector", folder / "detector.onnx", "--embedder", folder / "embedder.onnx")
    words = (tmp_path / "gallery", people, "--engine", "ort", *models)
    assert main(["gallery", "create", *map(str, (*words, "--embed-refused"))]) == 0
    out = cluster(tmp_path / "gallery")
    found = {row["photo"]: row["person"] for row in kept(out)}
    # A gallery holds one face of each photo, and knows where the photo is.
    assert sorted(found) == sorted(str(path) for path in people.rglob("*.png"))
    assert len(list((out / "people").iterdir())) == len(set(found.values()))


def test_low_quality_stays_out_and_is_listed(folder, cluster):
    out = cluster(folder / "photos", more=(*STRICT, "--min-size", "60"))
    assert {row["person"] for row in rows(out)} == {""}
    assert all("too_small" in row["left_out"] for row in rows(out)) and rows(out)
    assert "too_small" in (out / "people.html").read_text("utf-8")


def test_a_photo_that_cannot_be_read_is_named(folder, cluster, tmp_path, caplog):
    photos = tmp_path / "photos"
    shutil.copytree(folder / "photos" / "s0", photos)
    (photos / "x.png").write_bytes(b"no image")
    out = cluster(photos, code=1)
    assert "x.png' is not a readable image" in caplog.text
    assert len(kept(out)) == PHOTOS
    assert "x.png" in (out / "people.html").read_text("utf-8")


def test_a_photo_of_two_inputs_is_refused(folder, cluster, tmp_path, capsys):
    first, second = (cluster(folder / "photos" / name, to=name) for name in ("s0", "s1"))
    cluster(first, second, to="both", code=2)
    assert "'0.png' is in " in capsys.readouterr().err
    assert not (tmp_path / "both" / "people.csv").exists()


def test_embeddings_of_another_network_are_refused(folder, cluster, tmp_path, capsys):
    tiny_magface(tmp_path / "other.onnx", card_id="magface_iresnet50")
    first = cluster(folder / "photos" / "s0", to="first")
    other = (*STRICT, "--embedder", tmp_path / "other.onnx")
    cluster(first, folder / "photos" / "s1", to="both", more=other, code=2)
    assert "cannot be compared, since their embeddings were made differently" in (
        capsys.readouterr().err
    )


def test_the_threshold_is_that_of_the_file(folder, cluster, tmp_path, capsys):
    first = cluster(folder / "photos" / "s0", to="first")
    cluster(folder / "photos", to="second", more=(), code=2)
    assert "no threshold was measured for this network under the name" in capsys.readouterr().err
    tiny_magface(tmp_path / "other.onnx", card_id="magface_iresnet50")
    cluster(first, to="third", more=("--embedder", tmp_path / "other.onnx"), code=2)
    assert "no threshold is known for the file of w600k_mbf that made the embeddings" in (
        capsys.readouterr().err
    )


def test_a_damaged_result_is_refused(folder, cluster, tmp_path, capsys):
    first = cluster(folder / "photos" / "s0", to="first")
    whole = (first / "people.parquet").read_bytes()
    (tmp_path / "people.parquet").write_bytes(whole[:-20])
    cluster(tmp_path / "people.parquet", to="second", code=2)
    assert "people.parquet' cannot be read as Parquet" in capsys.readouterr().err


def test_a_table_that_is_no_result_is_refused(folder, cluster, tmp_path, capsys):
    first = cluster(folder / "photos" / "s0", to="first")
    table = pq.read_table(first / "people.parquet")
    for change, said in (
        (lambda t: t.drop_columns(["box"]), "cannot be read as people of facezoo cluster"),
        (lambda t: t.replace_schema_metadata({**t.schema.metadata, SETTINGS_KEY: b"[]"}), "people"),
        (lambda t: t.replace_schema_metadata({SCHEMA_KEY: b"facezoo.faces/1"}), "has schema"),
    ):
        pq.write_table(change(table), tmp_path / "people.parquet")
        cluster(tmp_path / "people.parquet", to="second", code=2)
        assert said in capsys.readouterr().err


def test_groups_are_compared_with_the_folders(folder, tmp_path, capsys):
    for person in range(3):
        shutil.copytree(folder / "photos" / f"s{person}", tmp_path / "photos" / f"s{person}")
    models = ("--detector", folder / "detector.onnx", "--embedder", folder / "embedder.onnx")
    words = (tmp_path / "photos", "--output", tmp_path / "tables", "--parquet", "--engine", "ort")
    assert main(["predict", *map(str, (*words, *models, *LIMITS)), "--quiet"]) == 0
    report, record = tmp_path / "report.json", tmp_path / "numerics.json"
    words = ("--tables", tmp_path / "tables", "--json", report, "--record", record)
    # Nobody is joined at a cosine of 1, and all are at -1.
    for threshold, groups, precision, recall in (("1", 9, 1.0, 1 / 3), ("-1", 1, 1 / 3, 1.0)):
        assert main(["evaluate", "clusters", *map(str, words), "--threshold", threshold]) == 0
        entry = json.loads(report.read_text())
        assert (entry["people"], entry["groups"]) == (3, groups)
        assert entry["B-cubed precision"] == pytest.approx(precision)
        assert entry["B-cubed recall"] == pytest.approx(recall)
    said = capsys.readouterr().out
    assert "a face in 9 of 9 photos; the central one is used" in said
    assert "3 people in 1 groups, 1 of them mixed" in said
    (measured,) = json.loads(record.read_text())["results"][-1:]
    assert measured["metrics"]["B-cubed recall"]["value"] == 100.0


def test_nobody_is_no_error(cluster, tmp_path):
    write_photo(tmp_path / "photos" / "none.png")
    out = cluster(tmp_path / "photos")
    assert rows(out) == []
    assert json.loads((out / "run.json").read_text())["finished"]
    again = cluster(out, tmp_path / "photos", to="again")
    assert results(again) == results(out)


def test_predict_numbers_the_same_people(folder, cluster, tmp_path):
    profile = {
        "schema": "facezoo.similarity_profile/2",
        "card": "w600k_mbf",
        "model_sha256": sha256_of(folder / "embedder.onnx"),
        "genuine": 9,
        "impostors": 9,
        "points": [
            {
                "fmr": 1e-3,
                "fnmr": 0.1,
                "cosine": dict.fromkeys(("threshold", "strict", "loose"), THRESHOLD),
            }
        ],
    }
    (tmp_path / "similarity.json").write_text(json.dumps(profile))
    more = ("--similarity", tmp_path / "similarity.json")
    expected = person_of(cluster(folder / "photos", more=more))
    models = ("--detector", folder / "detector.onnx", "--embedder", folder / "embedder.onnx")
    words = (folder / "photos", "--output", tmp_path / "who", "--engine", "ort", *models, *LIMITS)
    assert main(["predict", *map(str, (*words, *more))]) == 0
    lines = map(json.loads, (tmp_path / "who" / "faces.jsonl").read_text().splitlines())
    found = {
        (line["path"], str(index)): face["person"]
        for line in lines
        for index, face in enumerate(line["faces"])
        if "person" in face
    }
    assert found.keys() == expected.keys()
    pairs = {(found[face], expected[face]) for face in found}
    assert len(pairs) == len(set(found.values())) == len(set(expected.values())) > 2
