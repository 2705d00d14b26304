"""Identification of a folder of people: protocol, report, curves by size, names in predict."""

import json
from pathlib import Path

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import InputError

pytest.importorskip("pyarrow", reason="needs the extra gallery")
pytest.importorskip("faiss", reason="needs the extra gallery")
from bulk import LIMITS, STAGES
from facezoo.image.files import write_image_rgb
from facezoo.people.faces import EmbeddedFaces, Space
from facezoo.people.identify import (
    calibrate_identification,
    curve_lines,
    evaluate_identification,
    sizes_of,
)
from facezoo.reports.numerics import read_numerics
from facezoo.testing import tiny_magface, tiny_scrfd


def faces_of(people, vectors):
    count = len(people)
    return EmbeddedFaces(
        photos=tuple(f"{name}/{row:04}.jpg" for row, name in enumerate(people)),
        index=np.zeros(count, np.int32),
        vectors=np.array(vectors, np.float32),
        boxes=np.zeros((count, 4), np.float32),
        scores=np.ones(count, np.float32),
        magnitude=np.ones(count, np.float32),
        quality=np.full(count, np.nan, np.float32),
        sides=np.full((count, 2), 9, np.int32),
        space=Space("w600k_mbf", "0" * 64, {}),
    )


def drawn(several, single, noise=0.6, dimensions=32, seed=0):
    """Return people with three photos each, and people with one."""
    rng = np.random.default_rng(seed)
    people = [f"a{row:04}" for row in range(several) for _ in range(3)]
    people += [f"b{row:04}" for row in range(single)]
    centres = rng.standard_normal((several + single, dimensions))
    which = [*np.repeat(np.arange(several), 3), *range(several, several + single)]
    vectors = centres[which] + noise * rng.standard_normal((len(people), dimensions))
    return faces_of(people, vectors), people


def test_the_first_photo_is_enrolled_and_the_rates_are_by_hand():
    people = ["a", "a", "a", "b", "b", *(f"s{row:02}" for row in range(40))]
    known = [[1, 0, 0], [0.9, 0.4359, 0], [0, 0, 1], [0, 1, 0], [0.1, 0.995, 0]]
    # Strangers are at cosines 0.00 to 0.39 to a, and lower ones to b.
    strangers = [[row / 100, 0, (1 - (row / 100) ** 2) ** 0.5] for row in range(40)]
    faces = faces_of(people, [*known, *strangers])
    report = evaluate_identification(faces, people, fpirs=(0.25,))
    assert (report.enrolled, report.mated, report.strangers, report.probes) == (2, 3, 40, 40)
    # The third photo of a is nearer to nobody: both are at 0, a tie, which is a miss.
    assert report.rank1.rate == pytest.approx(2 / 3)
    ((point, fnir),) = report.points
    # Ten of forty may be above: 0.29 is the lowest with ten above it.
    assert point.cosine == pytest.approx(0.29, abs=1e-6) and point.how == "direct"
    assert fnir.rate == pytest.approx(1 / 3)
    assert "2 people enrolled with one photo each, 3 further photos" in report.lines()[0]
    assert report.own[0][1] is None and "only 2 strangers" in report.own[0][0].refusal


def test_the_gallerys_own_threshold_holds_for_others():
    faces, people = drawn(400, 3000)
    report = evaluate_identification(faces, people, fpirs=(0.05,))
    ((own, share),) = report.own
    assert own.how == "direct" and 0.02 < share < 0.08
    assert report.points[0][1].low <= report.points[0][1].rate <= report.points[0][1].high
    again = evaluate_identification(faces, people, fpirs=(0.05,))
    assert again.to_dict() == report.to_dict()


def test_curves_by_size_are_refused_where_there_are_too_few():
    faces, people = drawn(60, 70)
    assert sizes_of(people) == [10, 30, 60]
    curve = calibrate_identification(faces, people)
    assert [one.enrolled for one in curve] == [10, 30, 60]
    assert [one.strangers for one in curve] == [120, 100, 70]
    used = [one.points[0][0].used for one in curve]
    assert used == sorted(used)  # A larger gallery needs a higher threshold.
    text = "\n".join(curve_lines(curve))
    assert "only 70 strangers were compared, at least 100 are needed" in text
    with pytest.raises(InputError, match="people leave no stranger; expected one folder"):
        calibrate_identification(*drawn(1, 0))
    with pytest.raises(InputError, match="nobody has two photos, so there is nothing to enrol"):
        evaluate_identification(*drawn(0, 9))
    with pytest.raises(InputError, match=r"all of 9 people would be enrolled, so there is no str"):
        evaluate_identification(*drawn(9, 0))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Photos of forty people, half of whom have two, scored; the words of the networks."""
    folder = tmp_path_factory.mktemp("identify")
    tiny_scrfd(folder / "detector.onnx")
    tiny_magface(folder / "embedder.onnx")
    rng = np.random.default_rng(7)
    for person in range(40):
        for number in range(2 if person < 20 else 1):
            image = rng.integers(0, 60, (70, 80, 3), np.uint8)
            image[20:45, person : person + 25] = 200 + person
            write_image_rgb(folder / "people" / f"p{person:02}" / f"{number}.png", image)
    words = [str(folder / word) if word.endswith(".onnx") else word for word in (*STAGES, *LIMITS)]
    words.append("--embed-refused")
    command = ["predict", str(folder / "people"), "--output", str(folder / "out"), "--parquet"]
    assert main([*command, "--quiet", *words]) == 0
    return folder, words


def test_the_command_reports_records_and_repeats_itself(scored, tmp_path, capsys):
    folder, _ = scored
    for name in ("one", "two"):
        files = ["--json", str(tmp_path / f"{name}.json"), "--record", str(tmp_path / f"{name}.n")]
        command = ["evaluate", "identification", "--tables", str(folder / "out"), *files]
        assert main([*command, "--fpir", "0.3", "--dataset", "toy"]) == 0
    said = capsys.readouterr().out
    assert "a face in 60 of 60 photos; the central one is used" in said
    assert "20 people enrolled with one photo each, 20 further photos; 20 strangers" in said
    for end in ("json", "n"):
        first, second = (tmp_path / f"{name}.{end}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    (recorded,) = read_numerics(tmp_path / "one.n")
    assert recorded.dataset.startswith("Identification on toy, 20 people enrolled with a photo")
    assert "FNIR at FPIR 0.3" in recorded.metrics and recorded.settings["face"] == "central"
    command = ["evaluate", "identification", "--tables", str(folder / "out"), "--fpir", "0.001"]
    assert main([*command, "--record", str(tmp_path / "rare.n")]) == 2
    assert "there is nothing to record: only 20 strangers" in capsys.readouterr().err


def test_curves_of_photos_and_of_their_scores_are_the_same(scored, tmp_path, capsys):
    folder, words = scored
    made = {}
    networks = [*words[: words.index("--min-size")]]
    for name, source in (
        ("scores", ["--tables", str(folder / "out")]),
        ("images", ["--images", str(folder / "people"), *networks]),
    ):
        path = tmp_path / f"{name}.json"
        assert main(["calibrate", "identification", *source, "--output", str(path)]) == 0
        made[name] = json.loads(path.read_text())
    assert made["scores"] == made["images"]
    assert made["scores"]["schema"] == "facezoo.identification_profile/1"
    assert [one["enrolled"] for one in made["scores"]["sizes"]] == [10, 20]
    capsys.readouterr()
    command = ["calibrate", "identification", "--images", str(folder / "people")]
    assert main([*command, "--output", str(tmp_path / "x.json")]) == 2
    assert "--images need a recogniser: give --embedder" in capsys.readouterr().err


def test_predict_names_the_faces_of_a_gallery(scored, tmp_path, capsys, monkeypatch):
    folder, words = scored
    monkeypatch.chdir(tmp_path)
    command = ["gallery", "create", "g", str(folder / "people"), *words]
    assert main(command) == 0
    photo = str(folder / "people" / "p03" / "0.png")
    predict = ["predict", photo, "--gallery", "g", "--min-similarity", "0.999", *words]
    assert main([*predict, "--output", "out", "--draw", "--csv", "w.csv", "--html", "w.html"]) == 0
    (line,) = Path("out/faces.jsonl").read_text().splitlines()
    faces = json.loads(line)["faces"]
    names = [face["name"] for face in faces if "name" in face]
    known = [name for name in names if name]
    assert len(known) == len(set(known)) and "p03" in known
    assert max(face["similarity"] for face in faces) == pytest.approx(1.0, abs=1e-3)
    assert (
        ",name,similarity\n" in Path("w.csv").read_text() and ",p03," in Path("w.csv").read_text()
    )
    assert "p03" in Path("w.html").read_text()
    capsys.readouterr()
    assert main(predict) == 0
    assert "  p03" in capsys.readouterr().out
    # Another threshold makes other names: it is another run.
    other = [word if word != "0.999" else "0.5" for word in predict]
    assert main([*other, "--output", "out", "--draw"]) == 4
    capsys.readouterr()
    assert main(["predict", photo, "--min-similarity", "0.5", *words]) == 2
    assert "--min-similarity is about a gallery; name it" in capsys.readouterr().err
    start = words.index("--embedder")
    without = words[:start] + words[start + 2 :]
    assert main(["predict", photo, "--gallery", "g", "--min-similarity", "0.5", *without]) == 2
    assert (
        "a gallery needs embeddings; name the one that it was made with" in capsys.readouterr().err
    )


def test_strangers_set_the_threshold_of_a_small_gallery(scored, tmp_path, capsys, monkeypatch):
    folder, words = scored
    monkeypatch.chdir(tmp_path)
    one = str(folder / "people" / "p00")
    assert main(["gallery", "create", "g", one, "--person", "Ada", *words]) == 0
    search = ["gallery", "search", "g", one, *words]
    assert main([*search, "--fpir", "0.3"]) == 2
    assert "name photos of others as --strangers" in capsys.readouterr().err
    for source in ("people", "out"):
        strangers = ["--strangers", str(folder / source), "--fpir", "0.3"]
        assert main([*search, *strangers]) == 0
        assert "FPIR 0.3, 1 people: cosine 0.9" in capsys.readouterr().out
    assert main(["gallery", "create", "h", str(folder / "people"), *words]) == 0
    assert main([*search[:2], "h", *search[3:], *strangers]) == 2
    assert "'p00' is among the strangers of" in capsys.readouterr().err
