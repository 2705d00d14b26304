"""Galleries: what is on the disk after every change, templates, search, names."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import GateError, InputError, RunFolderError

pytest.importorskip("pyarrow", reason="needs the extra gallery")
pytest.importorskip("faiss", reason="needs the extra gallery")
from bulk import LIMITS, STAGES
from facezoo.image.files import write_image_rgb
from facezoo.people.faces import Space
from facezoo.people.gallery import (
    MOST_PARTS,
    Enrolled,
    Gallery,
    change_gallery,
    create_gallery,
    gate_queries,
)
from facezoo.people.index import ExactIndex, build_approximate, check_recall
from facezoo.people.search import assign_names
from facezoo.scale.work import holding
from facezoo.testing import tiny_magface, tiny_scrfd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

SPACE = Space("w600k_mbf", "0" * 64, {"norm": "x"})
OTHER = Space("w600k_mbf", "1" * 64, {"norm": "x"})


def enrolled(people, vectors, photos=None, weights=None):
    count = len(people)
    photos = photos or [f"/photos/{name}/{row}.jpg" for row, name in enumerate(people)]
    return Enrolled(
        tuple(people),
        tuple(photos),
        np.zeros(count, np.int32),
        np.tile(np.array([0, 0, 9, 9], np.float32), (count, 1)),
        np.ones(count) if weights is None else np.array(weights, float),
        np.array(vectors, np.float32),
    )


def drawn(count, faces=1, dimensions=16, seed=0, noise=0.3):
    """Return faces of drawn people: each person's direction with some noise."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((count, dimensions)), faces, axis=0)
    vectors = centres + noise * rng.standard_normal(centres.shape)
    people = [f"p{row:04}" for row in range(count) for _ in range(faces)]
    return enrolled(people, vectors)


@pytest.fixture
def gallery(tmp_path):
    """Forty people with three faces each."""
    return make(tmp_path / "g", drawn(40, 3, noise=0.1))


def make(folder, faces=None):
    create_gallery(folder, SPACE, "w600k_mbf")
    if faces is not None:
        with change_gallery(folder) as change:
            change.add(faces, SPACE, "these")
    return folder


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_template_is_the_weighted_mean_of_directions(tmp_path):
    vectors = [[3, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 2]]
    folder = make(tmp_path / "g", enrolled(["b", "b", "a"], vectors, weights=[3, 1, 1]))
    found = Gallery(folder)
    assert found.names == ["a", "b"] and found.counts() == {"a": 1, "b": 2}
    expected = [[0, 0, 0, 1], [3 / 10**0.5, 1 / 10**0.5, 0, 0]]
    np.testing.assert_allclose(found.templates(np.arange(2)), expected, atol=1e-6)
    cosines, people = found.search(np.array([[9, 3, 0, 0], [0, 0, 0, 7]]), 5)
    assert people.tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(cosines, [[1, 0], [1, 0]], atol=1e-6)
    opposite = make(tmp_path / "o", enrolled(["c", "c"], [[1, 0], [-1, 0]]))
    np.testing.assert_allclose(Gallery(opposite).templates(np.array([0])), [[1, 0]])


def test_a_photo_in_the_wrong_folder_is_named_and_not_used(tmp_path):
    faces = drawn(5, 4, noise=0.05)
    # The last photo of the first person shows the second one.
    faces.vectors[3] = faces.vectors[4] + 0.01
    folder = make(tmp_path / "g", faces)
    (outlier,) = Gallery(folder).outliers()
    assert (outlier.person, outlier.photo, outlier.nearest) == ("p0000", faces.photos[3], "p0001")
    assert outlier.cosine > 0.9 > outlier.own
    assert faces.photos[3] in outlier.line() and "to p0001 1.0" in outlier.line()
    clean = make(tmp_path / "clean", drawn(5, 4, noise=0.05).rows([0, 1, 2, *range(4, 20)]))
    np.testing.assert_allclose(
        Gallery(folder).templates(np.arange(5)), Gallery(clean).templates(np.arange(5)), atol=1e-6
    )


def test_two_photos_that_differ_are_both_named_and_both_used(tmp_path):
    # By hand: the photos of a are at right angles, and each is nearer to b or c.
    vectors = [[1, 0, 0], [0, 1, 0], [0.9, 0, 0.1], [0, 0.9, 0.1]]
    found = Gallery(make(tmp_path / "g", enrolled(["a", "a", "b", "c"], vectors)))
    assert [(one.photo[-5], one.nearest) for one in found.outliers()] == [("0", "b"), ("1", "c")]
    assert [round(one.own, 6) for one in found.outliers()] == [0.0, 0.0]
    np.testing.assert_allclose(found.templates(np.array([0])), [[0.5**0.5, 0.5**0.5, 0]])


def test_one_person_alone_has_outliers_too(tmp_path):
    faces = drawn(1, 6, noise=0.05)
    faces.vectors[2] = -faces.vectors[2] + 0.5
    (outlier,) = Gallery(make(tmp_path / "g", faces)).outliers()
    assert outlier.photo == faces.photos[2] and not outlier.nearest


def test_adding_twice_changes_nothing_and_a_face_has_one_owner(gallery):
    before = files(gallery)
    with change_gallery(gallery) as change:
        assert change.add(drawn(40, 3, noise=0.1), SPACE, "again") == (0, 120, 0, ())
        # The same embeddings under other names of photos are the same faces.
        faces = drawn(40, 3, noise=0.1)._replace(photos=tuple(f"/new/{n}" for n in range(120)))
        assert change.add(faces, SPACE, "copies") == (0, 120, 0, ())
        stolen = faces.rows([0])._replace(people=("thief",))
        added = change.add(stolen, SPACE, "stolen")
        assert added[:3] == (0, 0, 0)
        assert added.taken[0].why == "it is to be thief, but is p0000 already"
    assert files(gallery) == before


def test_another_model_is_refused_by_name(gallery):
    with change_gallery(gallery) as change:
        with pytest.raises(InputError, match=r"new cannot be compared.*model sha256 0000.*1111"):
            change.add(drawn(1, seed=9), OTHER, "new")
        with pytest.raises(InputError, match=r"has embeddings of 8 numbers, .* of 16; embed both"):
            change.add(drawn(1, dimensions=8), SPACE, "short")
        with pytest.raises(InputError, match=r"are weighted by their magnitude, those of it by th"):
            change.add(drawn(1, seed=9)._replace(weighted_by="quality"), SPACE, "it")


def test_who_is_removed_is_in_no_file(gallery):
    gone = drawn(40, 3, noise=0.1)
    with change_gallery(gallery) as change:
        change.make_index("hnsw")
        assert len(files(gallery)) == 3
        for name in ("p0007", "p0009"):
            assert name.encode() in b"".join(path.read_bytes() for path in gallery.iterdir())
        assert change.remove(["p0007", "p0009"]) == 6
        with pytest.raises(InputError, match=r"nobody in .* is called 'p007'; did you mean 'p00"):
            change.remove(["p007"])
    found = b"".join(path.read_bytes() for path in gallery.iterdir() if path.is_file())
    for row in range(21, 24):
        assert gone.vectors[row].tobytes() not in found
    assert gone.vectors[0].tobytes() in found
    assert b"p0007" not in found and len(files(gallery)) == 2
    assert len(Gallery(gallery)) == 38 and Gallery(gallery).approximate is None
    with change_gallery(gallery) as change:
        change.remove(list(change.gallery.names))
    assert files(gallery) == ["gallery.json"] and len(Gallery(gallery)) == 0
    assert Gallery(gallery).search(np.ones((2, 16)), 3)[0].shape == (2, 0)


def test_only_the_owner_can_read(gallery):
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(gallery.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in gallery.iterdir()}
    assert modes == {0o600} and before != 0o077


def test_two_writers_do_not_meet(gallery):
    refused = pytest.raises(RunFolderError, match="is in use by another start")
    with holding(gallery), refused, change_gallery(gallery):
        pass


def test_many_small_parts_become_one(tmp_path):
    folder = make(tmp_path / "g")
    faces = drawn(MOST_PARTS + 2)
    with change_gallery(folder) as change:
        for row in range(MOST_PARTS + 2):
            change.add(faces.rows([row]), SPACE, "one")
    assert len(files(folder)) == 1 + 2
    np.testing.assert_array_equal(Gallery(folder).enrolled().vectors, faces.vectors)


def test_what_a_kill_left_is_removed_by_the_next_change(gallery):
    for name in (
        "faces-0123456789abcdef.arrow",
        ".facezoo.00ff.tmp",
        "index-0000000000000000.faiss",
    ):
        (gallery / name).write_bytes(b"left")
    (gallery / "notes.txt").write_text("mine")
    with change_gallery(gallery):
        pass
    assert files(gallery)[-1] == "notes.txt" and len(files(gallery)) == 3


def test_a_folder_in_use_is_no_new_gallery(gallery, tmp_path):
    with pytest.raises(InputError, match="is a gallery already; add to it"):
        create_gallery(gallery, SPACE, "w600k_mbf")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    with pytest.raises(InputError, match="holds other files; name a new folder"):
        create_gallery(tmp_path / "x", SPACE, "w600k_mbf")
    with pytest.raises(InputError, match="is a file; name a new folder for the gallery"):
        create_gallery(tmp_path / "x" / "file", SPACE, "w600k_mbf")
    with pytest.raises(InputError, match=r"is not a gallery: it has no gallery\.json"):
        Gallery(tmp_path / "x")
    for bad in ("", " ", "a\nb", "x" * 2000):
        faces = type("F", (), {"photos": (), "index": 0, "boxes": 0, "weights": 0, "vectors": 0})
        with pytest.raises(InputError, match="is no name of a person; expected 1 to 1000"):
            Enrolled.of(faces, [bad])


def test_damage_is_named(gallery):
    Gallery(gallery).check()
    (part,) = gallery.glob("faces-*.arrow")
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is damaged|is not as it was written; restore"):
        Gallery(gallery).check()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    part.write_bytes(bytes(changed))
    with pytest.raises(InputError, match="is not as it was written; restore the gallery"):
        Gallery(gallery).check()
    for cut in (content[:100], b"", b"\0" * len(content), content[:-8] + b"\xff" * 8):
        part.write_bytes(cut)
        with pytest.raises(InputError, match=r"is damaged \(.*; restore the gallery from a copy"):
            Gallery(gallery)
    part.write_bytes(content)
    document = json.loads((gallery / "gallery.json").read_text())
    for key, value in (
        ("outliers", [10**6]),
        ("strangers", {"size": 1, "scores": [0.1], "people": []}),
        ("parts", [{**document["parts"][0], "file": "../x.arrow"}]),
        ("parts", [{**document["parts"][0], "rows": 7}]),
        ("space", {}),
        ("index", {}),
    ):
        (gallery / "gallery.json").write_text(json.dumps({**document, key: value}))
        with pytest.raises(InputError, match=r"damaged|cannot be read"):
            Gallery(gallery)


# Search -------------------------------------------------------------------------------------------


def exact_index(templates):
    return ExactIndex([templates], templates.shape[1], lambda rows: templates[rows])


def units(count, dimensions=32, seed=0):
    found = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_exact_search_is_that_of_numpy():
    templates, queries = units(3000), units(50, seed=1)
    templates[7] = templates[2999]  # Two that are alike: the first one is found first.
    queries[0] = templates[7]
    blocks = [templates[:1000], templates[1000:]]
    index = ExactIndex(blocks, 32, lambda rows: templates[rows])
    cosines, rows = index.search(queries, 10)
    full = queries @ templates.T
    expected = np.argsort(-full, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(rows, expected)
    assert rows[0, :2].tolist() == [7, 2999]
    np.testing.assert_allclose(cosines, np.take_along_axis(full, expected, axis=1), atol=1e-6)
    assert index.search(queries, 5000)[1].shape == (50, 3000)
    assert exact_index(templates[:1]).search(queries, 3)[1].shape == (50, 1)


def test_an_index_that_loses_people_does_not_pass_the_gate():
    templates, queries = units(2000), units(200, seed=1)
    exact = exact_index(templates)
    good = build_approximate(templates, "hnsw")
    assert check_recall(good, exact, queries).share >= 0.999
    good.hnsw.efSearch = 1
    with pytest.raises(GateError, match=r"recall gate: .* in 0\.\d+ of 200 queries, at least"):
        check_recall(good, exact, queries)
    with pytest.raises(InputError, match="ivfpq is trained on at least 9984 people, the gallery"):
        build_approximate(templates, "ivfpq")


def test_an_index_is_used_only_after_its_gate_and_says_so(gallery, monkeypatch, capsys):
    from facezoo.people import gallery as module

    assert main(["gallery", "index", str(gallery), "--kind", "hnsw"]) == 0
    assert "hnsw, recall@1 1.0000 of the exact search in 120 queries" in capsys.readouterr().out
    found = Gallery(gallery)
    assert found.approximate["kind"] == "hnsw"
    queries = gate_queries(found)
    for one, other in zip(found.search(queries, 3), found.search(queries, 3, exact=True)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    built = module.build_approximate

    def bad(templates, kind):
        return built(np.roll(templates, 1, axis=0), kind)

    monkeypatch.setattr(module, "build_approximate", bad)
    assert main(["gallery", "index", str(gallery), "--kind", "hnsw"]) == 3
    assert Gallery(gallery).approximate == found.approximate and len(files(gallery)) == 3
    (path,) = gallery.glob("index-*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cannot be used \(.*make it again: facezoo gallery ind"):
        Gallery(gallery).search(queries, 1)
    assert main(["gallery", "index", str(gallery), "--kind", "exact"]) == 0
    assert len(files(gallery)) == 2
    empty = make(gallery.with_name("empty"))
    with change_gallery(empty) as change, pytest.raises(InputError, match="is empty; add people"):
        change.make_index("hnsw")


# Names --------------------------------------------------------------------------------------------


def test_a_name_is_given_once_per_photo_to_the_best_assignment():
    # By hand: each face by itself would be person 0; together 0.8 + 0.7 beats 0.9 + nothing.
    cosines = np.array([[0.9, 0.7], [0.8, 0.2]])
    people = np.array([[0, 1], [0, 1]])
    assert assign_names(cosines, people, 0.5).tolist() == [1, 0]
    assert assign_names(cosines, people, 0.75).tolist() == [0, -1]
    assert assign_names(cosines, people, 0.95).tolist() == [-1, -1]
    assert assign_names(np.zeros((2, 0)), np.zeros((2, 0), int), 0.1).tolist() == [-1, -1]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**32 - 1), st.floats(-1, 1))
def test_no_name_is_given_twice_and_none_below_the_threshold(faces, people, seed, threshold):
    full = np.random.default_rng(seed).uniform(-1, 1, (faces, people))
    top = min(people, faces)
    order = np.argsort(-full, axis=1)[:, :top]
    named = assign_names(np.take_along_axis(full, order, axis=1), order, threshold)
    known = named[named >= 0]
    assert len(set(known.tolist())) == len(known)
    total = sum(full[row, one] - threshold for row, one in enumerate(named) if one >= 0)
    assert all(full[row, one] > threshold for row, one in enumerate(named) if one >= 0)
    # As many candidates as faces are enough for the best assignment of all people.
    gains = np.maximum(0, full - threshold)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    assert total == pytest.approx(gains[rows, columns].sum(), abs=1e-9)


def test_scores_of_strangers_are_those_of_the_others_templates(gallery):
    found = Gallery(gallery)
    scores = found.strangers
    assert scores.size == 39 and scores.strangers == 40 and len(scores.scores) == 80
    templates = found.templates(np.arange(40))
    units_of = found.units(np.array([0]))
    expected = (templates[1:] @ units_of[0]).max()
    assert scores.scores[0] == pytest.approx(expected, abs=1e-5)


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Networks, and three people with three photos each, of a size that makes one face."""
    folder = tmp_path_factory.mktemp("photos")
    tiny_scrfd(folder / "detector.onnx")
    tiny_magface(folder / "embedder.onnx")
    rng = np.random.default_rng(7)
    for person in range(3):
        for number in range(3):
            image = rng.integers(0, 60, (70, 80, 3), np.uint8)
            image[20:45, 9 * person : 9 * person + 25] = 200 + 20 * person
            write_image_rgb(folder / "people" / f"p{person}" / "video" / f"{number}.png", image)
    return folder


@pytest.fixture
def run(photos, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    words = [str(photos / word) if word.endswith(".onnx") else word for word in (*STAGES, *LIMITS)]

    def go(*command, chain=True):
        caplog.clear()
        code = main(["gallery", *map(str, command), *(words if chain else ())])
        printed = capsys.readouterr()
        return code, printed.out + printed.err + caplog.text

    return go


def test_people_are_enrolled_found_listed_and_erased(run, photos):
    code, out = run("create", "g", photos / "people", "--embed-refused")
    assert code == 0 and "9 faces added, new people: 3" in out and "3 people, 9 faces in g" in out
    code, out = run("add", "g", photos / "people", "--embed-refused")
    assert code == 0 and "0 faces added, 9 were there already, new people: 0" in out
    photo = photos / "people" / "p1" / "video" / "0.png"
    code, out = run(
        *("search", "g", photo, "--min-similarity", "0.99", "--embed-refused", "--json", "w.json"),
        *("--csv", "w.csv"),
    )
    assert code == 0 and "0.png, face " in out and "cosine 0.9900, yours" in out
    entry = json.loads(Path("w.json").read_text())
    assert entry["schema"] == "facezoo.gallery_search/1" and not entry["approximate"]
    names = [one["name"] for one in entry["faces"] if one["name"]]
    assert "p1" in names and len(names) == len(set(names))
    assert Path("w.csv").read_text().startswith("photo,face,name,rank,person,cosine\n0.png,0,")
    code, out = run("search", "g", photo)
    assert code == 2 and "only 3 strangers were compared, at least 20 are needed" in out
    assert "give a cosine: --min-similarity X" in out
    code, out = run("list", "g", "--json", "-", chain=False)
    assert code == 0 and "     3 p0" in out
    code, out = run("info", "g", "--json", "info.json", chain=False)
    assert code == 0 and "model w600k_mbf, 512 numbers, flip none" in out and "search: exact" in out
    assert json.loads(Path("info.json").read_text())["faces"] == 9
    code, out = run("remove", "g", "p2", chain=False)
    assert code == 0 and "3 faces of 1 people erased" in out and "2 people, 6 faces" in out


def test_one_name_for_photos_and_tables_and_merging(run, photos, tmp_path):
    folder = photos / "people" / "p0"
    code, out = run("create", "a", folder, "--person", "Ada", "--embed-refused")
    assert code == 0 and "3 faces added, new people: 1" in out
    words = [str(photos / word) if word.endswith(".onnx") else word for word in (*STAGES, *LIMITS)]
    command = ["predict", str(photos / "people"), "--output", "out", "--parquet", "--quiet"]
    assert main([*command, "--embed-refused", *words]) == 0
    code, out = run("create", "b", "out", "--embed-refused")
    assert code == 0 and "9 faces added, new people: 3" in out
    code, out = run("merge", "b", "a", chain=False)
    assert code == 1 and "0 faces added, new people: 0" in out
    assert "it is to be Ada, but is p0 already" in out
    run("remove", "b", "p0", chain=False)
    code, out = run("merge", "b", "a", chain=False)
    assert code == 0 and "3 faces added, new people: 1" in out
    assert Gallery(Path("b")).names == ["Ada", "p1", "p2"]
    loose = photos / "people" / "p0" / "video" / "0.png"
    code, out = run("add", "a", loose, "--embed-refused")
    assert code == 2 and "are not in the folder of a person" in out


def test_another_model_is_refused_and_embeds_again(run, photos, tmp_path):
    assert run("create", "g", photos / "people", "--embed-refused")[0] == 0
    before = Gallery(Path("g"))
    tiny_magface(tmp_path / "other.onnx", card_id="magface_iresnet50")
    other = ("--embedder", str(tmp_path / "other.onnx"))
    words = [str(photos / "detector.onnx"), "--engine", "ort", *LIMITS, "--embed-refused"]
    code, out = run("add", "g", photos / "people", "--detector", *words, *other, chain=False)
    assert code == 2 and "cannot be compared" in out and "model w600k_mbf against magface" in out
    code, out = run("rebuild", "g", "--detector", *words, *other, chain=False)
    assert code == 0 and "embedded again with magface_iresnet50" in out
    after = Gallery(Path("g"))
    assert after.space.model == "magface_iresnet50" and after.counts() == before.counts()
    assert after.enrolled().photos == before.enrolled().photos
    moved = photos / "people" / "p0" / "video" / "0.png"
    moved.rename(moved.with_suffix(".gone"))
    try:
        code, out = run("rebuild", "g", "--embed-refused")
        assert code == 2 and "1 of 9 faces cannot be embedded again, such as" in out
        assert Gallery(Path("g")).space.model == "magface_iresnet50"
    finally:
        moved.with_suffix(".gone").rename(moved)


def test_a_photo_without_a_face_is_named_and_the_others_are_enrolled(run, photos, tmp_path):
    people = tmp_path / "people" / "p0"
    write_image_rgb(people / "dark.png", np.zeros((70, 80, 3), np.uint8))
    (people / "none.png").write_bytes(b"no image")
    content = (photos / "people" / "p0" / "video" / "0.png").read_bytes()
    (people / "good.png").write_bytes(content)
    code, out = run("create", "g", tmp_path / "people", "--embed-refused")
    assert code == 1 and "1 face added" in out
    assert "left out: 'p0/dark.png': no face was found" in out
    assert "left out: 'p0/none.png': is not a readable image" in out
