"""PIPNet's losses against a literal loop, and a training that stops and goes on."""

import math
import os
import runpy
import signal

import numpy as np
import pytest
from facezoo.errors import InputError, WeightsError
from facezoo.image.files import write_image_rgb
from facezoo.models.pipnet.decode import MeanFace, decode_maps
from facezoo.models.pipnet.settings import FitSettings

torch = pytest.importorskip("torch")
from facezoo.models import resumable  # noqa: E402
from facezoo.models.pipnet import train  # noqa: E402
from facezoo.models.pipnet.network import build  # noqa: E402
from facezoo.models.pipnet.train import Fit, HeldOut, _Targets, pip_losses  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

NAMES = ("cls", "x", "y", "nb_x", "nb_y")


def perfect_maps(points, neighbors, height, width):
    """Maps that say exactly where the landmarks are, cell by cell, as the authors fill them."""
    batch, count, _ = points.shape
    near = neighbors.shape[1]
    maps = {name: np.zeros((batch, count, height, width), np.float32) for name in NAMES[:3]}
    maps["nb_x"] = np.zeros((batch, count * near, height, width), np.float32)
    maps["nb_y"] = np.zeros((batch, count * near, height, width), np.float32)
    for b in range(batch):
        for n in range(count):
            column = min(max(math.floor(points[b, n, 0] * width), 0), width - 1)
            row = min(max(math.floor(points[b, n, 1] * height), 0), height - 1)
            maps["cls"][b, n, row, column] = 1.0
            maps["x"][b, n, row, column] = points[b, n, 0] * width - column
            maps["y"][b, n, row, column] = points[b, n, 1] * height - row
            for k in range(near):
                x, y = points[b, neighbors[n, k]]
                maps["nb_x"][b, n * near + k, row, column] = x * width - column
                maps["nb_y"][b, n * near + k, row, column] = y * height - row
    return maps


@pytest.fixture
def faces(rng):
    """Landmarks inside and a little outside of the crop, and their mean face."""
    points = rng.uniform(-0.1, 1.1, (3, 7, 2))
    return points, MeanFace.from_points(points.mean(axis=0), 5)


def test_perfect_maps_cost_nothing_and_decode_to_the_points(faces):
    points, meanface = faces
    maps = perfect_maps(points, meanface.neighbors, 5, 8)
    outputs = [torch.from_numpy(maps[name]) for name in NAMES]
    losses = pip_losses(
        outputs, torch.from_numpy(points).float(), torch.from_numpy(meanface.neighbors)
    )
    assert all(loss.item() == pytest.approx(0.0, abs=1e-6) for loss in losses.values())
    found = decode_maps(maps, meanface)
    np.testing.assert_allclose(found.points_xy, points, atol=1e-6)
    np.testing.assert_allclose(found.own_xy, points, atol=1e-6)


def test_losses_equal_a_loop_over_the_authors_targets(faces, rng):
    points, meanface = faces
    targets = perfect_maps(points, meanface.neighbors, 5, 8)
    outputs = {name: rng.normal(size=maps.shape) for name, maps in targets.items()}
    expected = {"map": np.mean((outputs["cls"] - targets["cls"]) ** 2)}
    cells = targets["cls"] == 1.0
    near = meanface.neighbors.shape[1]
    for name in NAMES[1:]:
        at = np.repeat(cells, near, axis=1) if name.startswith("nb") else cells
        expected[name] = np.mean(np.abs(outputs[name][at] - targets[name][at]))
    losses = pip_losses(
        [torch.from_numpy(outputs[name]) for name in NAMES],
        torch.from_numpy(points),
        torch.from_numpy(meanface.neighbors),
    )
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)


def make_fit(seed=0, epochs=2, learning_rate=1e-3):
    """A training on noise: 4 landmarks, 10 crops."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(10, 3, 32, 32)).astype(np.float32)
    points = rng.uniform(0.1, 0.9, (10, 4, 2))
    neighbors = MeanFace.from_points(points.mean(axis=0), 3).neighbors
    settings = FitSettings(
        backbone="mobilenet_v2",
        num_neighbors=3,
        input_size=32,
        epochs=epochs,
        batch_size=4,
        seed=seed,
        learning_rate=learning_rate,
    )
    return Fit(settings, lambda indices: images[indices], points, neighbors)


def weights_of(fit):
    return {name: values.numpy() for name, values in fit.network.state_dict().items()}


def test_a_resumed_training_equals_one_without_a_stop(tmp_path):
    whole, first, second = make_fit(), make_fit(), make_fit()
    assert (whole.batches_per_epoch, whole.batches) == (2, 4)
    losses = [whole.step() for _ in range(4)]
    stopped = [first.step() for _ in range(3)]
    first.save(tmp_path / "state.pth")
    torch.manual_seed(999)
    second.resume(tmp_path / "state.pth")
    assert second.batch == 3
    assert [*stopped, second.step()] == losses
    assert [epoch.to_dict() for epoch in second.epochs] == [
        epoch.to_dict() for epoch in whole.epochs
    ]
    for name, values in weights_of(second).items():
        np.testing.assert_array_equal(values, weights_of(whole)[name], err_msg=name)


def test_a_run_saves_itself_and_goes_on(tmp_path):
    state = tmp_path / "state.pth"
    whole = make_fit()
    whole.run(state, lambda batches, count: batches)
    assert (whole.batch, [path.name for path in tmp_path.iterdir()]) == (4, ["state.pth"])
    again = make_fit()
    seen = []
    again.run(state, lambda batches, count: seen.append(count) or batches)
    assert seen == [0]
    for name, values in weights_of(again).items():
        np.testing.assert_array_equal(values, weights_of(whole)[name], err_msg=name)


def test_every_face_is_seen_once_an_epoch_and_in_another_order_in_the_next():
    fit = make_fit()
    seen, read = [], fit._read
    fit._read = lambda indices: seen.append(list(indices)) or read(indices)
    for _ in range(4):
        fit.step()
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_rate_falls_where_the_authors_let_it_fall():
    fit = make_fit(epochs=6)
    rates = []
    for _ in range(fit.batches):
        fit.step()
        rates.append(fit._optimizer.param_groups[0]["lr"])
    assert rates[::2] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_the_map_weighs_ten_times_as_much():
    fit = make_fit()
    loss = fit.step()
    # After one of an epoch's two batches the means hold half of its losses.
    parts = {name: 2 * value for name, value in fit.epochs[0].to_dict().items()}
    expected = 10 * parts.pop("map") + sum(parts.values())
    assert loss == pytest.approx(expected, rel=1e-5)


def test_more_epochs_are_a_continuation(tmp_path):
    state = tmp_path / "state.pth"
    make_fit(epochs=2).run(state, lambda batches, count: batches)
    more, counts = make_fit(epochs=3), []
    more.run(state, lambda batches, count: counts.append(count) or batches)
    assert (counts, more.batch, len(more.epochs)) == ([2], 6, 3)
    with pytest.raises(WeightsError, match=r"another training \(epochs was 3, is 2\); delete it"):
        make_fit(epochs=2).run(state, lambda batches, count: batches)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_stopped_is_saved_first(tmp_path, number):
    """After the batch it is in, whose changes of the weights are complete."""
    state, fit, seen = tmp_path / "state.pth", make_fit(), []
    before = signal.signal(number, lambda *given: seen.append(given[0]))
    step = fit.step

    def stopped():
        if fit.batch == 2:
            os.kill(os.getpid(), number)
        return step()

    fit.step = stopped
    try:
        fit.run(state, lambda batches, count: batches)
    finally:
        signal.signal(number, before)
    assert seen == [number]
    again = make_fit()
    again.run(state, lambda batches, count: batches)
    whole = make_fit()
    whole.run(tmp_path / "whole.pth", lambda batches, count: batches)
    assert (fit.batch, again.batch) == (3, 4)
    for name, values in weights_of(again).items():
        np.testing.assert_array_equal(values, weights_of(whole)[name], err_msg=name)


def test_a_training_that_diverges_stops_and_goes_on_with_a_lower_rate(tmp_path, monkeypatch):
    """From the first number that is not finite nothing is written."""
    monkeypatch.setattr(resumable, "SAVE_EVERY", 1)
    state, seen = tmp_path / "state.pth", []
    fit = make_fit()
    read = fit._read

    def spoiled(indices):
        seen.append(indices)
        return read(indices) * np.float32(1.0 if len(seen) < 4 else 1e30)

    fit._read = spoiled
    with pytest.raises(InputError) as caught:
        fit.run(state, lambda batches, count: batches)
    said = str(caught.value)
    assert said.startswith("step 4 (batch 2 of 2 of epoch 2): ") and "is not finite" in said
    assert "--resume and a lower --learning_rate" in said
    saved = torch.load(state, weights_only=True)
    assert saved["batch"] == 3
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
    again = make_fit(learning_rate=1e-5)
    with pytest.raises(WeightsError, match="--resume to go on with another learning rate"):
        again.run(state, lambda batches, count: batches)
    again.run(state, lambda batches, count: batches, other_rate=True)
    assert again.batch == 4
    assert again._optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)


@pytest.mark.parametrize("what", ["state_dict", "optimizer"])
def test_a_state_of_a_diverged_training_is_not_gone_on_with(tmp_path, what):
    """As earlier versions wrote it."""
    fit, state = make_fit(), tmp_path / "state.pth"
    fit.step()
    fit.save(state)
    saved = torch.load(state, weights_only=True)
    values = saved[what]["state"][0]["exp_avg"] if what == "optimizer" else saved[what]
    values = values if what == "optimizer" else next(iter(values.values()))
    values[(0,) * values.dim()] = float("nan")
    torch.save(saved, state)
    with pytest.raises(WeightsError, match=f"{what}.* is not finite; delete it to start again"):
        make_fit().resume(state)


def test_what_the_optimiser_holds_must_be_finite_to_be_saved(tmp_path):
    fit = make_fit()
    fit.step()
    next(iter(fit._optimizer.state.values()))["exp_avg_sq"].fill_(float("inf"))
    with pytest.raises(InputError, match=r"step 1 .*: the optimiser"):
        fit.save(tmp_path / "state.pth")
    assert not list(tmp_path.iterdir())


def test_the_script_goes_on_in_its_folder_with_a_lower_rate(
    repository, tmp_path, rng, monkeypatch, capsys
):
    """Adam's second step at the first rate is let overflow; the message's advice is followed."""
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for number in range(count):
            image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            write_image_rgb(tmp_path / "data" / f"images_{split}" / f"{number}.png", image)
            places = " ".join(f"{place:.3f}" for place in rng.uniform(0.1, 0.9, 10))
            lines.append(f"{number}.png {places}\n")
        (tmp_path / "data" / f"{split}.txt").write_text("".join(lines))
    step, steps = torch.optim.Adam.step, []

    def overflowing(self, *given):
        steps.append(self.param_groups[0]["lr"])
        step(self, *given)
        if len(steps) == 2:
            self.param_groups[0]["params"][0].data[0] = float("nan")

    monkeypatch.setattr(torch.optim.Adam, "step", overflowing)
    monkeypatch.setattr(resumable, "SAVE_EVERY", 1)
    main = runpy.run_path(str(repository / "face_alignment/pipnet/source_code/fit.py"))["main"]
    words = ["--data_dir", str(tmp_path / "data"), "--save_dir", str(tmp_path / "out")]
    words += "--backbone mobilenet_v2 --num_neighbors 3 --input_size 64 --epochs 1".split()
    words += "--batch_size 2 --normalizer 0,1 --learning_rate".split()
    assert main([*words, "0.1"]) == 2
    assert "step 2 (batch 2 of 2 of epoch 1): " in capsys.readouterr().err
    assert torch.load(tmp_path / "out" / "state.pth", weights_only=True)["batch"] == 1
    assert main([*words, "0.001"]) == 4
    assert main([*words, "0.001", "--resume"]) == 0
    assert steps == [0.1, 0.1, 0.001]
    assert "network on 2 test crops: nme " in capsys.readouterr().out


def test_another_trainings_state_is_refused(tmp_path):
    fit = make_fit()
    fit.save(tmp_path / "state.pth")
    with pytest.raises(WeightsError, match="belongs to another training"):
        make_fit(seed=1).resume(tmp_path / "state.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "state.pth").read_bytes()[:2000])
    with pytest.raises(WeightsError, match="not a saved training"):
        make_fit().resume(tmp_path / "torn.pth")


def fit_on_noise(**changed):
    """As of make_fit, with a start, other settings and six held-out crops."""
    rng = np.random.default_rng(4)
    images = rng.normal(size=(16, 3, 32, 32)).astype(np.float32)
    points = rng.uniform(0.1, 0.9, (16, 4, 2))
    meanface = MeanFace.from_points(points[:10].mean(axis=0), 3)
    start = changed.pop("start", None)
    settings = FitSettings(
        **{
            **{"backbone": "mobilenet_v2", "num_neighbors": 3, "input_size": 32, "batch_size": 4},
            **{"epochs": 3, "learning_rate": 1e-3, "precision": "fp32", **changed},
        }
    )
    seen = []

    def read(indices):
        seen.extend(indices)
        return images[indices]

    held_out = HeldOut(lambda indices: images[10 + indices], points[10:], meanface, (0, 1))
    measured = {"held_out": held_out} if settings.patience else {}
    fit = Fit(settings, read, points[:10], meanface.neighbors, start=start, **measured)
    return fit, seen


@pytest.fixture
def backbone(tmp_path):
    """A file of torchvision's names, with the classifier that it has there."""
    torch.manual_seed(5)
    weights = build("mobilenet_v2", 4, 3, 32).features.state_dict()
    weights = {f"features.{name}": value for name, value in weights.items()}
    torch.save({**weights, "classifier.1.weight": torch.zeros(10, 1280)}, tmp_path / "start.pth")
    return tmp_path / "start.pth"


def test_offsets_in_one_cell_give_the_losses_and_gradients_of_whole_maps(faces):
    torch.manual_seed(0)
    points, meanface = faces
    points, neighbors = torch.from_numpy(points).float(), torch.from_numpy(meanface.neighbors)
    network = build("mobilenet_v2", 7, 5, 64).eval()
    for name, weights in network.named_parameters():
        if name.endswith("layer.weight"):
            torch.nn.init.normal_(weights)
    images = torch.randn(3, 3, 64, 64)
    both = []
    for whole in (True, False):
        network.zero_grad()
        if whole:
            parts = pip_losses(network(images), points, neighbors)
        else:
            features = torch.nn.Sequential(*network.blocks())(images)
            targets = _Targets.of(points, neighbors, *features.shape[2:])
            parts = targets.losses(*network.heads_at(features, targets.at))
        sum(parts.values()).backward()
        gradients = [weights.grad.numpy().copy() for weights in network.parameters()]
        both.append(([part.item() for part in parts.values()], gradients))
    assert both[0][0] == pytest.approx(both[1][0], rel=1e-5)
    for ours, theirs in zip(both[0][1], both[1][1]):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * max(1.0, np.abs(theirs).max()))


def test_frozen_blocks_keep_what_they_start_with_and_see_each_crop_once(backbone):
    fit, seen = fit_on_noise(start=backbone, frozen=7)
    before = {name: values.copy() for name, values in weights_of(fit).items()}
    start = torch.load(backbone, weights_only=True)
    np.testing.assert_array_equal(before["features.0.0.weight"], start["features.0.0.weight"])
    for _ in range(fit.batches):
        fit.step()
    assert len(seen) == len(set(seen)) > 4
    for name, values in weights_of(fit).items():
        frozen = name.startswith("features.") and int(name.split(".")[1]) < 7
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(values, before[name]) == frozen, name


def test_the_frozen_blocks_compute_the_same_kept_or_not(backbone):
    """Float16 keeps three digits."""
    fit, _ = fit_on_noise(start=backbone, frozen=7)
    chosen = np.arange(4)
    fit._frozen.eval()
    kept = fit._inputs(chosen)
    with torch.no_grad():
        computed = fit._frozen(torch.from_numpy(fit._read(chosen)))
    np.testing.assert_allclose(kept.numpy(), computed.numpy(), rtol=2e-3, atol=1e-4)


def test_frozen_random_blocks_are_refused(backbone):
    with pytest.raises(InputError, match="frozen: 2 of 19 blocks; expected fewer, and weights to"):
        fit_on_noise(frozen=2)
    with pytest.raises(InputError, match="frozen: 19 of 19 blocks"):
        fit_on_noise(start=backbone, frozen=19)


def test_a_training_starts_from_a_whole_network_too(backbone, tmp_path):
    first, _ = fit_on_noise(start=backbone)
    first.step()
    torch.save(first.network.state_dict(), tmp_path / "whole.pth")
    again, _ = fit_on_noise(start=tmp_path / "whole.pth")
    for name, values in weights_of(again).items():
        np.testing.assert_array_equal(values, weights_of(first)[name], err_msg=name)
    with pytest.raises(WeightsError, match="start"):
        fit_on_noise(start=backbone, backbone="resnet18")


def test_an_epoch_of_some_crops_draws_others_each_time():
    fit, seen = fit_on_noise(epoch_crops=4)
    assert (fit.batches_per_epoch, fit.batches) == (1, 3)
    for _ in range(3):
        fit.step()
    epochs = [set(seen[first : first + 4]) for first in (0, 4, 8)]
    assert all(len(epoch) == 4 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_training_without_progress_ends_with_its_best_network(backbone, tmp_path, monkeypatch):
    """Stopped between two epochs too; the held-out errors are given."""
    errors = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.35, 5: 0.2}
    monkeypatch.setattr(Fit, "landmarks", lambda self, crops: len(self.epochs))
    monkeypatch.setattr(train, "normalized_mean_error", lambda epoch, *_: np.array([errors[epoch]]))
    changed = {"start": backbone, "frozen": 7, "patience": 2, "epochs": 9}
    state, kept = tmp_path / "state.pth", {}
    fit, _ = fit_on_noise(**changed)
    while fit.batch < 7:
        fit.step()
        if fit.batch == 4:
            kept = {name: values.copy() for name, values in weights_of(fit).items()}
    fit.save(state)
    again, _ = fit_on_noise(**changed)
    again.run(state, lambda batches, count: batches)
    assert [epoch.nme for epoch in again.epochs] == [0.5, 0.3, 0.4, 0.35]
    assert (again.batch, again.batches) == (8, 8)
    again.take_best()
    for name, values in weights_of(again).items():
        np.testing.assert_array_equal(values, kept[name], err_msg=name)
    over, _ = fit_on_noise(**changed)
    over.run(state, lambda batches, count: pytest.fail("it goes on") if count else batches)


def test_a_frozen_training_resumes_with_the_same_result(backbone, tmp_path):
    changed = {"start": backbone, "frozen": 7, "patience": 5}
    (whole, _), (first, _), (second, _) = (fit_on_noise(**changed) for _ in range(3))
    losses = [whole.step() for _ in range(6)]
    stopped = [first.step() for _ in range(3)]
    first.save(tmp_path / "state.pth")
    second.resume(tmp_path / "state.pth")
    assert stopped + [second.step() for _ in range(3)] == losses
    assert [epoch.to_dict() for epoch in second.epochs] == [e.to_dict() for e in whole.epochs]
    assert whole.epochs[0].nme > 0
