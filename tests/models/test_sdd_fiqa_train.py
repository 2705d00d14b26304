"""SDD-FIQA's training: stops and goes on, starts from a trunk, and learns what blur does."""

import json
import runpy

import numpy as np
import pytest
from facezoo.errors import InputError, WeightsError
from facezoo.image.files import write_image_rgb
from facezoo.models.sdd_fiqa.settings import TrainSettings

torch = pytest.importorskip("torch")
from facezoo.models import resumable  # noqa: E402
from facezoo.models.resumable import has_bf16  # noqa: E402
from facezoo.models.sdd_fiqa.network import build, load_trunk  # noqa: E402
from facezoo.models.sdd_fiqa.train import LabelledFaces, Training  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

RECIPE = "face_quality/sdd_fiqa"
SMALL = {"variant": "mobilefacenet", "epochs": 2, "batch_size": 2, "precision": "fp32"}


@pytest.fixture
def faces(rng):
    images = rng.uniform(-1, 1, (4, 3, 112, 112)).astype(np.float32)
    return LabelledFaces(lambda indices: images[indices], np.array([10.0, 80.0, 30.0, 55.0]))


def numbers(training):
    return [values.numpy().copy() for values in training.network.state_dict().values()]


def test_a_stopped_training_goes_on_as_if_it_had_not(faces, tmp_path):
    settings = TrainSettings(**SMALL, learning_rate=1e-3)
    whole = Training(settings, faces, faces)
    assert (whole.batches, whole.precision) == (4, "fp32")
    losses = [whole.step() for _ in range(3)]
    first = Training(settings, faces, faces)
    found = [first.step() for _ in range(2)]
    first.save(tmp_path / "state.pth")
    second = Training(settings, faces, faces)
    second.resume(tmp_path / "state.pth")
    found.append(second.step())
    assert found == losses
    assert second.epochs[0] == whole.epochs[0]
    assert all(map(np.array_equal, numbers(whole), numbers(second)))
    other = Training(TrainSettings(**{**SMALL, "seed": 1}), faces)
    with pytest.raises(WeightsError, match="belongs to another training"):
        other.resume(tmp_path / "state.pth")
    (tmp_path / "state.pth").write_bytes(b"torn")
    with pytest.raises(WeightsError, match="not a saved training"):
        other.resume(tmp_path / "state.pth")


def test_a_run_saves_where_it_is(faces, tmp_path):
    settings = TrainSettings(**{**SMALL, "epochs": 4, "batch_size": 4}, learning_rate=1e-3)
    training = Training(settings, faces, faces)

    def stop(batches, count):
        assert (list(batches), count) == ([0, 1, 2, 3], 4)
        return [0]

    training.run(tmp_path / "state.pth", stop)
    assert not (tmp_path / "state.pth").exists()
    training.run(tmp_path / "state.pth", lambda batches, count: batches)
    assert (tmp_path / "state.pth").exists()
    rates = [epoch.learning_rate for epoch in training.epochs]
    np.testing.assert_allclose(rates, [1e-3, 1e-4, 1e-5, 1e-5])
    assert all(-1.0 <= epoch.spearman <= 1.0 for epoch in training.epochs)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("l1", lambda gap: np.abs(gap).mean()),
        ("l2", lambda gap: (gap**2).mean()),
        ("smooth_l1", lambda gap: np.where(np.abs(gap) < 1, gap**2 / 2, np.abs(gap) - 0.5).mean()),
    ],
)
def test_the_first_loss_is_that_of_the_labels_mean(faces, loss, expected):
    training = Training(TrainSettings(**{**SMALL, "batch_size": 4}, loss=loss), faces)
    assert training.step() == pytest.approx(expected(faces.labels - faces.labels.mean()), rel=1e-5)
    assert training.epochs[0].spearman is None


def test_half_of_the_pictures_are_mirrored(faces, monkeypatch):
    seen = []
    training = Training(TrainSettings(**{**SMALL, "batch_size": 4}), faces)
    monkeypatch.setattr(
        training, "_score", lambda images: seen.append(images) or torch.zeros(4, requires_grad=True)
    )
    training.step()
    originals = faces.read(np.arange(4))
    kinds = {
        (image.tolist() == original.tolist(), image.tolist() == original[..., ::-1].tolist())
        for image in seen[0]
        for original in originals
        if image.sum() == pytest.approx(original.sum())
    }
    assert {(True, False), (False, True)} == kinds


def test_bf16_learns_too(faces):
    training = Training(TrainSettings(**{**SMALL, "batch_size": 4, "precision": "bf16"}), faces)
    assert training.precision == "bf16"
    assert np.isfinite([training.step() for _ in range(2)]).all()
    assert next(training.network.parameters()).dtype == torch.float32
    assert has_bf16(torch.device("meta")) is False


def test_a_trunk_is_loaded_whole_and_the_head_stays(tmp_path):
    recogniser = {f"module.{k}": v for k, v in build("mobilefacenet").state_dict().items()}
    recogniser = {k: v for k, v in recogniser.items() if ".quality." not in k}
    recogniser["module.output_layer.linear.weight"] = torch.zeros(512, 512)
    torch.save(recogniser, tmp_path / "recogniser.pth")
    network = build("mobilefacenet")
    head = {k: v.clone() for k, v in network.state_dict().items() if k.startswith("quality.")}
    load_trunk(network, tmp_path / "recogniser.pth")
    for name, values in network.state_dict().items():
        wanted = head.get(name, recogniser.get(f"module.{name}"))
        assert torch.equal(values, wanted), name
    del recogniser["module.conv1.conv.weight"]
    torch.save(recogniser, tmp_path / "torn.pth")
    with pytest.raises(WeightsError, match=r"conv1\.conv\.weight"):
        load_trunk(network, tmp_path / "torn.pth")
    assert "quality.3.weight" in network.state_dict()


def test_labels_must_be_numbers():
    for labels in (np.zeros(0), np.array([1.0, np.nan]), np.zeros((2, 1))):
        with pytest.raises(InputError, match="labels"):
            LabelledFaces(lambda indices: indices, labels)


@pytest.fixture
def script(repository, capsys):
    def run(name, *words):
        main = runpy.run_path(str(repository / RECIPE / name))["main"]
        code = main([str(word) for word in words])
        said, error = capsys.readouterr()
        return code, said, error

    return run


def test_the_script_leaves_a_model_that_the_others_take(script, tmp_path, rng):
    for number in range(4):
        image = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        write_image_rgb(tmp_path / "faces" / f"{number}.png", image)
    (tmp_path / "labels.txt").write_text("".join(f"{n}.png {n * 20}.5\n" for n in range(4)))
    words = ["--image_dir", tmp_path / "faces", "--labels", tmp_path / "labels.txt"]
    words += ["--save_dir", tmp_path / "out", "--epochs", "1", "--batch_size", "2"]
    code, said, error = script("source_code/train.py", *words)
    assert code == 0, error
    assert json.loads(said)["epochs"][0]["spearman"] is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".files.jsonl", "model.onnx", "model.pth", "run.json", "state.pth", "training.json",
    ]  # fmt: skip
    export = ["--checkpoint", tmp_path / "out" / "model.pth", "--variant", "mobilefacenet"]
    export += ["--output", tmp_path / "again.onnx"]
    code, said, error = script("source_code/export_onnx.py", *export)
    assert code == 0, error
    assert "sdd_fiqa_mobilefacenet, output quality" in said
    code, _, error = script("source_code/train.py", *words, "--val_labels", tmp_path / "labels.txt")
    assert code == 2
    assert "go together" in error


def test_a_diverged_training_goes_on_in_its_folder_with_a_lower_rate(
    script, tmp_path, rng, monkeypatch
):
    """Adam's step at the first rate is let overflow; the advice of the message is then followed."""
    for number in range(4):
        image = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        write_image_rgb(tmp_path / "faces" / f"{number}.png", image)
    (tmp_path / "labels.txt").write_text("".join(f"{n}.png {n * 20}.5\n" for n in range(4)))
    step, steps = torch.optim.Adam.step, []

    def overflowing(self, *given):
        steps.append(self.param_groups[0]["lr"])
        step(self, *given)
        if len(steps) == 4 and steps[-1] > 1e-3:
            self.param_groups[0]["params"][0].data[0] = float("inf")

    monkeypatch.setattr(torch.optim.Adam, "step", overflowing)
    monkeypatch.setattr(resumable, "SAVE_EVERY", 1)
    out = tmp_path / "out"
    words = ["--image_dir", tmp_path / "faces", "--labels", tmp_path / "labels.txt"]
    words += ["--save_dir", out, "--epochs", "3", "--batch_size", "2", "--learning_rate"]
    code, _, error = script("source_code/train.py", *words, "1.0")
    assert code == 2
    assert "step 4 (batch 2 of 2 of epoch 2): conv1.conv.weight is not finite" in error
    assert "--resume and a lower --learning_rate" in error
    assert {path.name for path in out.iterdir()} == {".files.jsonl", "run.json", "state.pth"}
    code, _, error = script("source_code/train.py", *words, "0.001")
    assert (code, "learning_rate was 1.0, is 0.001" in error) == (4, True)
    code, said, error = script("source_code/train.py", *words, "0.001", "--resume")
    assert code == 0, error
    assert len(steps) == 4 + 3
    rates = [epoch["learning_rate"] for epoch in json.loads(said)["epochs"]]
    assert rates == pytest.approx([1.0, 0.1, 1e-5])
    written = json.loads((out / "run.json").read_text())
    assert written["settings"]["learning_rate"] == 0.001
    assert written["earlier_settings"] == [{"learning_rate": 1.0}]
    # Finished, it has nothing to do, and is no longer given another rate.
    assert script("source_code/train.py", *words, "0.001")[0] == 0
    assert script("source_code/train.py", *words, "0.0001", "--resume")[0] == 4


def measure(script, shared, tmp_path, people, pictures, levels, training):
    """Run the recipe on some of AT&T's people; return scores, labels and copies of the others."""
    from facezoo.datasets.scores import read_scores

    att = shared / "assets" / "att_faces"
    for name, (first, last) in people.items():
        for person in range(first, last + 1):
            folder = tmp_path / "att" / name / f"s{person}"
            folder.mkdir(parents=True)
            for number in range(1, pictures + 1):
                data = (att / f"s{person}" / f"{number}.pgm").read_bytes()
                (folder / f"{number}.pgm").write_bytes(data)
        made = ["--image_dir", tmp_path / "att" / name, "--save_dir", tmp_path / name]
        assert script("source_code/make_degraded_set.py", *made, "--levels", *levels)[0] == 0
        labels = ["--image_dir", tmp_path / name / "images", "--save_dir", tmp_path / f"l{name}"]
        labels += ["--references", tmp_path / name / "references.txt"]
        labels += ["--copies", tmp_path / name / "copies.txt"]
        labels += ["--recognizer", shared / "assets" / "recognition" / "w600k_mbf.onnx"]
        assert script("source_code/make_pseudo_labels.py", *labels)[0] == 0
    words = ["--image_dir", tmp_path / "train" / "images", "--save_dir", tmp_path / "out"]
    words += ["--labels", tmp_path / "ltrain" / "labels.txt", "--learning_rate", "1e-3"]
    assert script("source_code/train.py", *words, *training)[0] == 0
    runner = ["--image_dir", tmp_path / "test" / "images", "--save_dir", tmp_path / "scores"]
    runner += ["--model_prefix_path", tmp_path / "out" / "model.onnx"]
    assert script("build_in/vsx/python/sdd_fiqa_vsx.py", *runner)[0] == 0
    copies = [line.split() for line in (tmp_path / "test/copies.txt").read_text().splitlines()]
    scores = read_scores(tmp_path / "scores" / "results.json")
    return scores, read_scores(tmp_path / "ltest" / "labels.txt"), copies


def check_ranking(scores, labels, copies):
    from facezoo.evaluation.quality import rank_copies

    assert rank_copies(labels, copies).spearman <= -0.9
    assert rank_copies(scores, copies).spearman <= -0.8
    assert rank_copies(scores, copies).last_below_original >= 0.95


@pytest.mark.shared
def test_a_short_training_ranks_blur_of_people_it_has_not_seen(script, shared, tmp_path):
    """The README's measurement with few of its pictures."""
    people = {"train": (1, 5), "test": (21, 23)}
    training = ("--epochs", "3", "--batch_size", "6")
    check_ranking(*measure(script, shared, tmp_path, people, 3, (2, 5), training))


@pytest.mark.long
@pytest.mark.shared
def test_the_training_of_the_readme_is_worth_what_it_says(script, shared, tmp_path):
    from facezoo.datasets.degraded import read_copies
    from facezoo.datasets.embeddings import read_embeddings
    from facezoo.evaluation.quality import compare_scores, face_pairs

    people = {"train": (1, 20), "test": (21, 30)}
    training = ("--epochs", "3", "--batch_size", "16")
    measured = measure(script, shared, tmp_path, people, 10, (1, 2, 3.5, 5), training)
    check_ranking(*measured)
    embeddings = read_embeddings(tmp_path / "ltest" / "embeddings.npz")
    names = embeddings.names
    references = np.isin(names, (tmp_path / "test" / "references.txt").read_text().split())
    originals = read_copies(tmp_path / "test" / "copies.txt", names)
    pairs = face_pairs(embeddings, references=references, originals=originals)
    rates = (1e-2, 1e-3, 1e-4)
    curves, left_out = compare_scores(pairs, {"trained": measured[0]}, rates)
    assert list(curves["trained"]) == [1e-2, 1e-3]
    assert "100000 impostor pairs, there are 40500" in left_out[1e-4]
    assert all(curve.relative_auc.high < 1.0 for curve in curves["trained"].values())
