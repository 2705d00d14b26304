"""Thresholds of similarity: by hand, refused where there is too little, kept with the file."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from facezoo import testing
from facezoo.cli.main import main
from facezoo.errors import InputError
from facezoo.image.files import write_image_rgb
from facezoo.metrics.pairs import PairSimilarities
from facezoo.metrics.verification import cosine_similarity
from facezoo.models import find_card
from facezoo.profiles.similarity import (
    SimilarityPoint,
    SimilarityProfile,
    TooFewKept,
    people_points,
    person_numbers,
    read_similarity,
    similarity_points,
    write_similarity,
)
from facezoo.testing import tiny_magface, tiny_scrfd


def pairs(impostors, genuine=(0.9,)):
    cosines = np.concatenate([genuine, impostors])
    return PairSimilarities.of_list(cosines, np.arange(len(cosines)) < len(genuine))


def test_a_threshold_by_hand():
    found = pairs(np.linspace(-1, 0.99, 2000), [0.5, 0.985, 0.995])
    hundredth, thousandth, _ = similarity_points(found)
    # 20 of 2,000 impostors may pass: the threshold is the 21st.
    descending = np.linspace(-1, 0.99, 2000)[::-1]
    assert hundredth.cosine == descending[20]
    assert np.mean(descending > hundredth.cosine) == 0.01
    assert hundredth.fnmr == pytest.approx(1 / 3)
    assert hundredth.low < hundredth.cosine < hundredth.high
    assert thousandth.refusal.startswith(
        "FMR 0.001 needs at least 10000 impostor pairs, there are 2000; add people"
    )
    assert thousandth.cosine is None and thousandth.scales() == {}


def test_scales_agree():
    point = SimilarityPoint(1e-2, 0.3, 0.2, 0.4, 0.9)
    scales = point.scales()
    for index, cosine in enumerate((0.3, 0.4, 0.2)):
        assert scales["cosine"][index] == pytest.approx(cosine, abs=1e-9)
        assert scales["l2"][index] == pytest.approx(math.sqrt(2 - 2 * cosine), abs=1e-9)
        assert scales["degrees"][index] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-7)


def test_the_interval_holds_the_threshold_of_the_population():
    rng = np.random.default_rng(7)
    true = 0.1 * 2.3263478740408408  # the normal's 99 % point
    held = 0
    for _ in range(100):
        (point,) = similarity_points(pairs(rng.normal(0, 0.1, 2000)), fmrs=[1e-2])
        held += point.low <= true <= point.high
    assert 88 <= held <= 100


def some_people(rng, count=40, most=7):
    """Embeddings of people with 1 to ``most`` images each, and who is in each."""
    people = np.repeat(np.arange(count), rng.integers(1, most + 1, count))
    people = rng.permutation(people)
    vectors = rng.normal(0, 1, (count, 16))[people] + rng.normal(0, 0.8, (len(people), 16))
    return vectors.astype(np.float32), person_numbers(list(map(str, people)))


def all_at_once(vectors, people):
    """The similarities of all pairs as they are computed without blocks."""
    first, second = np.triu_indices(len(people), k=1)
    points = vectors.astype(np.float64)
    cosines = cosine_similarity(points[first], points[second])
    return cosines, np.stack([first, second], axis=1), people[first] == people[second]


@pytest.mark.parametrize("most", [1, 40, 1000, 10**6])
def test_blocks_find_what_all_pairs_at_once_hold(most, monkeypatch):
    monkeypatch.setattr("facezoo.metrics.pairs.BLOCK", 7)
    vectors, people = some_people(np.random.default_rng(5))
    cosines, index, is_same = all_at_once(vectors, people)
    found = PairSimilarities.of_people(vectors, people, most)
    assert found.genuine.tolist() == cosines[is_same].tolist()
    order = np.argsort(-cosines[~is_same], kind="stable")[:most]
    assert found.impostors.tolist() == cosines[~is_same][order].tolist()
    assert found.people.tolist() == people[index[~is_same][order]].tolist()
    assert found.impostor_count == np.count_nonzero(~is_same)
    assert found.pictures.tolist() == np.bincount(people).tolist()
    vectors[3] = 0
    with pytest.raises(InputError, match=r"embedding 3 of the images .* is all zero"):
        PairSimilarities.of_people(vectors, people, most)


def test_more_impostors_are_kept_where_resampled_people_need_them():
    # All the nearest impostors are of two people, whom not every drawing holds.
    people = np.repeat(np.arange(30), 4)
    cosines = np.concatenate([np.linspace(0.9, 0.8, 16), np.linspace(0.5, -0.5, 6944)])
    couples = [(i, j) for i in range(120) for j in range(i) if people[i] != people[j]]
    couples.sort(key=lambda pair: {people[pair[0]], people[pair[1]]} != {0, 1})
    whose = people[np.array(couples)]
    whole = PairSimilarities(np.ones(180), cosines, 6960, whose, np.full(30, 4))
    (point,) = similarity_points(whole, fmrs=[2e-3])
    short = PairSimilarities(np.ones(180), cosines[:16], 6960, whose[:16], np.full(30, 4))
    with pytest.raises(TooFewKept):
        similarity_points(short, fmrs=[2e-3])
    assert point.low < point.cosine
    vectors, numbers = some_people(np.random.default_rng(6))
    assert people_points(vectors, numbers, most=1)[1] == people_points(vectors, numbers)[1]


def test_people_drawn_anew_widen_the_interval():
    rng = np.random.default_rng(3)
    people = np.arange(120) // 4
    index = np.stack(np.triu_indices(120, k=1), axis=1)
    whose = people[index]
    impostor = whose[:, 0] != whose[:, 1]
    # Each person has a direction of looking like everybody: pairs of one are alike.
    habit = rng.normal(0, 0.1, 30)
    cosines = habit[whose].sum(axis=1) + rng.normal(0, 0.02, len(index))
    order = np.argsort(-cosines[impostor])
    found = PairSimilarities(
        np.full(180, 0.9),
        cosines[impostor][order],
        int(impostor.sum()),
        whose[impostor][order],
        np.full(30, 4),
    )
    (alone,) = similarity_points(replace(found, people=None, pictures=None), fmrs=[1e-2])
    (drawn,) = similarity_points(found, fmrs=[1e-2])
    assert drawn.cosine == alone.cosine
    assert drawn.high - drawn.low > 2 * (alone.high - alone.low)
    assert similarity_points(found, fmrs=[1e-2]) == (drawn,)


def test_people_make_pairs_of_both_kinds():
    assert person_numbers(["b", "a", "b"]).tolist() == [1, 0, 1]
    for people in (["a", "a"], ["a", "b"], ["a"], []):
        with pytest.raises(InputError, match="no pairs of both kinds"):
            person_numbers(people)


PROFILE = SimilarityProfile(
    "w600k_mbf",
    "a" * 64,
    10,
    2000,
    (SimilarityPoint(1e-2, 0.3, 0.2, 0.4, 0.1), SimilarityPoint(1e-3, refusal="too few")),
    {"detector": None},
)


def test_a_profile_is_read_back_for_its_file_only(tmp_path):
    path = tmp_path / "profile.json"
    write_similarity(path, PROFILE)
    found = read_similarity(path, "a" * 64)
    assert found.cosine_at(1e-2) == pytest.approx(0.3)
    assert found.points[0].low == pytest.approx(0.2)
    assert (found.points[0].fnmr, found.settings) == (0.1, {"detector": None})
    with pytest.raises(InputError, match="too few"):
        found.cosine_at(1e-3)
    with pytest.raises(InputError, match=r"has FMR 0\.01, 0\.001, not 0\.5"):
        found.cosine_at(0.5)
    with pytest.raises(InputError, match="belongs to one model file"):
        read_similarity(path, "b" * 64)
    written = path.read_text()
    infinite = written.replace(f'"genuine": {PROFILE.genuine}', '"genuine": 1e999')
    assert infinite != written
    for text in ("[]", "{}", infinite, written.replace("profile/2", "profile/3")):
        path.write_text(text)
        with pytest.raises(InputError, match="not a profile of similarity"):
            read_similarity(path, "a" * 64)


def test_the_first_schema_is_read(tmp_path):
    path = tmp_path / "profile.json"
    write_similarity(path, PROFILE)
    entry = json.loads(path.read_text())
    entry["schema"] = "facezoo.similarity_profile/1"
    for point in entry["points"]:
        point["far"] = point.pop("fmr")
        if "fnmr" in point:
            point["tar"] = 1.0 - point.pop("fnmr")
    path.write_text(json.dumps(entry))
    found = read_similarity(path, "a" * 64)
    assert [point.fmr for point in found.points] == [1e-2, 1e-3]
    assert found.points[0].fnmr == pytest.approx(0.1)
    for change in ({"threshold": 1.5}, {"strict": -2.0}, {"loose": "0.2"}):
        entry["points"][0]["cosine"].update(change)
        path.write_text(json.dumps(entry))
        with pytest.raises(InputError, match=r"profile\.points\[0\]\.cosine\.\w+ is"):
            read_similarity(path, "a" * 64)


@pytest.fixture
def people(tmp_path):
    """Eight people of six pictures: noise of their own, and a little of each picture."""
    rng = np.random.default_rng(9)
    for person in range(8):
        face = rng.integers(0, 256, (112, 112, 3))
        for index in range(6):
            picture = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
            write_image_rgb(tmp_path / "people" / f"p{person}" / f"{index}.png", picture)
    return tmp_path, tiny_magface(tmp_path / "tiny.onnx")


def test_folders_of_people_to_a_profile(people, capsys):
    folder, model = people
    profile = folder / "profile.json"
    words = ["calibrate", "similarity", "--model", str(model), "--output", str(profile)]
    assert main([*words, "--identities", str(folder / "people")]) == 0
    said = capsys.readouterr().out
    assert "120 pairs of one person, 1008 of two" in said
    assert "FMR 0.01: cosine" in said and "FNMR 0.0000" in said
    assert "FMR 0.0001: no threshold, FMR 0.0001 needs" in said
    for low, high in re.findall(r"\((-?[\d.]+) to (-?[\d.]+)\)", said):
        assert float(low) <= float(high)
    entry = json.loads(profile.read_text())
    assert entry["settings"]["interval"] == "people resampled"
    assert entry["points"][0]["l2"]["strict"] < entry["points"][0]["l2"]["loose"]


def test_listed_pairs_to_a_profile(people, capsys):
    folder, model = people
    rows = [f"people/p{p}/{i}.png people/p{p}/{i + 1}.png 1" for p in range(8) for i in range(5)]
    rows += [
        f"people/p{p}/{i}.png people/p{q}/{j}.png 0"
        for p in range(8)
        for q in range(p)
        for i in range(6)
        for j in range(6)
    ]
    (folder / "pairs.txt").write_text("\n".join(rows) + "\n")
    words = ["calibrate", "similarity", "--model", str(model), "--output", str(folder / "o.json")]
    assert main([*words, "--pairs", str(folder / "pairs.txt")]) == 0
    assert "40 pairs of one person, 1008 of two" in capsys.readouterr().out
    (folder / "pairs.txt").write_text("a.png b.png 2\n")
    assert main([*words, "--pairs", str(folder / "pairs.txt")]) == 2
    assert "line 1 is 'a.png b.png 2'; expected two photos and 1 or 0" in capsys.readouterr().err


def test_lists_of_every_layout_give_one_profile(people, capsys):
    """LFW's pairs.txt, a table, and names with spaces are the same pairs of the same images."""
    folder, model = people
    for person in range(8):
        for index in range(6):
            target = folder / "lfw" / f"A B {person}" / f"A B {person}_{index + 1:04}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "people" / f"p{person}" / f"{index}.png", target)
    genuine = [(p, 1, p, i) for i in range(2, 6) for p in range(8)]
    impostor = [(p, 1 + i, (p + 1) % 8, 2 + i) for i in range(4) for p in range(8)]

    def name(person, index):
        return f"A B {person}/A B {person}_{index:04}.png"

    lfw = ["1\t32"]
    lfw += [f"A B {p}\t{i}\t{j}" for p, i, _, j in genuine]
    lfw += [f"A B {p}\t{i}\tA B {q}\t{j}" for p, i, q, j in impostor]
    rows = [(name(p, i), name(q, j), 1) for p, i, q, j in genuine]
    rows += [(name(p, i), name(q, j), 0) for p, i, q, j in impostor]
    lists = {
        "pairs.txt": "\n".join(lfw),
        "pairs.csv": "\n".join(["first,second,same", *(f"{a},{b},{c}" for a, b, c in rows)]),
        "spaces.list": "\n".join(f"{a} {b} {c}" for a, b, c in rows),
    }
    words = ["calibrate", "similarity", "--model", str(model)]
    profiles = []
    for file, text in lists.items():
        (folder / file).write_text(text + "\n")
        output = folder / f"{file}.json"
        photos = ["--photos", str(folder / "lfw")]
        code = main([*words, "--output", str(output), "--pairs", str(folder / file), *photos])
        assert code == 0, capsys.readouterr().err
        assert "32 pairs of one person, 32 of two" in capsys.readouterr().out
        entry = json.loads(output.read_text())
        profiles.append((entry["genuine"], entry["impostors"], entry["settings"]["pictures"]))
    assert len(set(profiles)) == 1
    output = ["--output", str(folder / "o.json")]
    both = ["--images", str(folder / "people"), "--photos", str(folder / "lfw")]
    assert main([*words, *output, *both]) == 2
    assert "--photos is the folder of --pairs" in capsys.readouterr().err


def test_a_network_that_tells_nobody_apart_is_named(people, capsys):
    folder, _ = people
    card = find_card("w600k_mbf")
    model = testing._write_of_cells(folder / "collapsed.onnx", card, scale=1e-4, offset=1.0)
    words = ["calibrate", "similarity", "--model", str(model), "--output", str(folder / "o.json")]
    assert main([*words, "--images", str(folder / "people")]) == 2
    said = capsys.readouterr().err
    assert "all 48 embeddings are nearly the same" in said and "tells nobody apart" in said
    assert not (folder / "o.json").exists()


def test_similarity_without_an_embedder_is_refused(people, capsys):
    folder, _ = people
    detector = tiny_scrfd(folder / "detector.onnx")
    words = ["predict", str(folder / "people"), "--save_dir", str(folder / "out")]
    assert main([*words, "--detector", str(detector), "--similarity", "x.json"]) == 2
    assert "name an --embedder" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.shared
def test_match_takes_the_profile(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("scrfd/scrfd_500m_bnkps.onnx", "recognition/w600k_mbf.onnx"):
        (tmp_path / "home" / name.rpartition("/")[2]).symlink_to(shared / "assets" / name)
    for person in ("s1", "s2", "s3", "s4", "s5", "s6", "s7"):
        (tmp_path / "att" / person).mkdir(parents=True)
        for index in range(1, 8):
            picture = shared / "assets/att_faces" / person / f"{index}.pgm"
            (tmp_path / "att" / person / picture.name).symlink_to(picture)
    profile = tmp_path / "profile.json"
    words = ["calibrate", "similarity", "--identities", str(tmp_path / "att")]
    words += ["--model", "w600k_mbf", "--detector", "scrfd_500m_bnkps", "--output", str(profile)]
    assert main(words) == 0
    photos = [str(shared / f"assets/photos/Rob_Lowe_000{index}.jpg") for index in (1, 2)]
    draw = ["--draw", str(tmp_path / "match.jpg"), "--profile", str(profile)]
    assert main(["match", *photos, *draw, "--fmr", "1e-2"]) == 0
    said = capsys.readouterr().out
    cosine = read_similarity(profile, json.loads(profile.read_text())["model_sha256"]).cosine_at(
        1e-2
    )
    assert f"threshold {cosine:.4f}, above: one person" in said
    assert main(["match", *photos, *draw, "--far", "1e-4"]) == 2
    assert "needs at least 100000 impostor pairs" in capsys.readouterr().err
    (tmp_path / "photos").mkdir()
    for photo in photos:
        (tmp_path / "photos" / photo.rpartition("/")[2]).symlink_to(photo)
    words = ["predict", str(tmp_path / "photos"), "--save_dir", str(tmp_path / "out"), "--csv"]
    words += ["--embedder", "w600k_mbf", "--similarity", str(profile), "--far", "1e-2"]
    assert main(words) == 0
    lines = (tmp_path / "out/faces.jsonl").read_text().splitlines()
    assert [json.loads(line)["faces"][0]["person"] for line in lines] == [0, 0]
