"""MagFace's training: stopped, killed and resumed, on one process and two, in every precision."""

import multiprocessing
import os
import signal
import time
from itertools import chain

import numpy as np
import pytest
from facezoo.errors import InputError, WeightsError
from facezoo.models.magface.faces import Batches, ValidationPairs
from facezoo.models.magface.settings import LossSettings, RunSettings, TrainSettings

torch = pytest.importorskip("torch")
from facezoo.models.magface import train  # noqa: E402
from facezoo.models.magface.distributed import Processes  # noqa: E402
from facezoo.models.magface.train import Trainer  # noqa: E402
from facezoo.runs import Inputs, RunFolder  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

PEOPLE, EMBEDDING = 5, 8


class Squares:
    """Thirty-two pictures whose shade and place say who; flips and chances follow from the key."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return 32

    def __getitem__(self, key):
        time.sleep(self.seconds)
        epoch, index = key
        rng = np.random.default_rng((7, epoch, index))
        face = np.random.default_rng(index).integers(0, 60, (3, 8, 8)).astype(np.uint8)
        face[index % 3, index % PEOPLE] += 150
        face = face[..., ::-1].copy() if rng.random() < 0.5 else face
        return face, index % PEOPLE, rng.random(16, dtype=np.float32)


def tiny():
    """All kinds of layers the real network has."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.Dropout2d(0.4),
        nn.Flatten(),
        nn.Linear(256, EMBEDDING),
        nn.BatchNorm1d(EMBEDDING),
    )


LOSS = LossSettings(l_a=1.0, u_a=8.0, scale=16.0)


def make(build=tiny, faces=None, processes=None, compiled=False, **settings):
    given = {"loss": LOSS, "epochs": 5, "batch_size": 8, "lr": 0.05, "lr_drop_epoch": (3,)}
    return Trainer(
        TrainSettings(**{**given, **settings}),
        faces or Squares(),
        PEOPLE,
        build,
        processes,
        compiled=compiled,
        embedding_size=EMBEDDING,
    )


def go(trainer, folder, **options):
    lines = []
    done = trainer.run(folder, RunSettings(print_freq=1, **options), say=lines.append)
    return done, lines


def losses(trainer):
    return [row["loss"] for row in trainer.history]


def assert_same(first, second):
    assert first.history == second.history
    assert first.epochs == second.epochs
    for name, values in first.network.state_dict().items():
        assert torch.equal(values, second.network.state_dict()[name]), name
    assert torch.equal(first.head.weight, second.head.weight)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    trainer = make()
    folder = tmp_path_factory.mktemp("whole")
    assert go(trainer, folder)[0]
    return trainer, folder


# One process --------------------------------------------------------------------------------------


def test_it_learns_and_says_so(whole):
    trainer, folder = whole
    assert (trainer.step, trainer.steps) == (20, 20)
    assert losses(trainer)[-1] < losses(trainer)[0]
    steps = (folder / "steps.csv").read_text().splitlines()
    assert steps[0].startswith("step,loss,identity,magnitude,accuracy,length,margin,shortest")
    assert len(steps) == 21
    epochs = (folder / "epochs.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in epochs[1:]] == ["0.05"] * 3 + [
        "0.005000000000000001"
    ] * 2
    assert len(sorted((folder / "checkpoints").iterdir())) == 3


def test_means_are_those_of_the_batches(whole):
    trainer, _ = whole
    for epoch in range(5):
        rows = trainer.history[4 * epoch : 4 * epoch + 4]
        entry = trainer.epochs[epoch]
        assert entry["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows]))
        assert entry["longest"] == max(row["longest"] for row in rows)
        assert entry["shortest"] == min(row["shortest"] for row in rows)
        weighed = entry["identity"] + LOSS.weight * entry["magnitude"]
        assert entry["loss"] == pytest.approx(weighed)


def test_progress_shows_rate_and_time_left(tmp_path):
    _, lines = go(make(epochs=1), tmp_path)
    assert lines[0].startswith("epoch 1/1 step 1/4 loss ")
    assert "images/s, 0:00:0" in lines[0] and lines[0].endswith(" left")


@pytest.mark.parametrize("at", [3, 4])
def test_resumed_from_any_checkpoint_it_is_the_same(whole, tmp_path, at):
    """In the middle of an epoch and at its end, whatever was computed in between."""
    first = make()
    with RunFolder(tmp_path, "test", {}, Inputs([], [])):
        assert go(first, tmp_path, save_every=1, keep=99)[0]
        again = make(build=lambda: (torch.manual_seed(99), tiny())[1])
        again.resume(tmp_path / "checkpoints" / f"{at:08}.pth")
    torch.manual_seed(123)
    assert again.step == at
    assert max(train.saved(tmp_path)).name == f"{at:08}.pth"
    assert go(again, tmp_path)[0]
    assert_same(whole[0], again)


def child_run(folder, seconds):
    torch.set_num_threads(1)
    go(make(faces=Squares(seconds)), folder, save_every=3)


def start(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_killed_in_the_middle_of_an_epoch_it_goes_on(whole, tmp_path):
    process = start(child_run, tmp_path, 0.03)
    wanted = tmp_path / "checkpoints" / "00000006.pth"
    end = time.monotonic() + 60
    while not wanted.exists() and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.1)  # one more batch or so, of which nothing was saved
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = make()
    again.resume(train.saved(tmp_path)[-1])
    assert 6 <= again.step < 20
    assert go(again, tmp_path)[0]
    assert_same(whole[0], again)


def signalled_run(folder, number):
    torch.set_num_threads(1)
    trainer = make()
    learn = trainer.learn

    def interrupted(*batch):
        if trainer.step == 5:
            os.kill(os.getpid(), number)
        return learn(*batch)

    trainer.learn = interrupted
    before = signal.getsignal(number)
    done, _ = go(trainer, folder)
    assert not done
    assert signal.getsignal(number) == before


# In a process of its own: a signal that goes astray must not end the other tests.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(whole, tmp_path, number):
    process = start(signalled_run, tmp_path, number)
    process.join()
    assert process.exitcode == 0
    assert train.saved(tmp_path)[-1].name == "00000006.pth"
    again = make()
    again.resume(train.saved(tmp_path)[-1])
    assert go(again, tmp_path)[0]
    assert_same(whole[0], again)


def test_checkpoints_come_by_the_clock(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    go(make(epochs=1), tmp_path, keep=99)
    assert [path.stem for path in train.saved(tmp_path)] == [f"{step:08}" for step in (1, 2, 3, 4)]


def test_another_folders_checkpoints_stay(whole, tmp_path):
    before = train.saved(whole[1])
    with RunFolder(tmp_path, "test", {}, Inputs([], [])):
        make().resume(before[0])
    assert train.saved(whole[1]) == before


def test_foreign_and_torn_checkpoints_are_refused(whole):
    path = train.saved(whole[1])[-1]
    with pytest.raises(WeightsError, match="belongs to another training"):
        make(lr=0.1).resume(path)
    torn = path.with_name("torn.pth")
    torn.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a saved training"):
        make().resume(torn)
    torn.unlink()


def test_a_checkpoint_of_wrong_types_is_refused(whole, tmp_path):
    """Its settings are those of the training; the rest is somebody's."""
    state = torch.load(train.saved(whole[1])[-1], weights_only=True)
    path = tmp_path / "wrong.pth"
    names = set(state) - {"settings", "classes"}
    wrong = [{**state, name: value} for name in names for value in (None, "x")]
    wrong += [{key: state[key] for key in set(state) - {name}} for name in names]
    wrong += [{**state, "step": step} for step in (-1, 10**9)]
    for content in wrong:
        torch.save(content, path)
        with pytest.raises(WeightsError, match=r"wrong\.pth"):
            make().resume(path)


def spoil_centres(trainer):
    trainer.head.weight.data[0, 0] = float("inf")


def spoil_gradient(trainer):
    trainer.network[5].weight.register_hook(lambda gradient: gradient * float("nan"))


def spoil_weight(trainer):
    """Gradient and momentum are finite, and their sum is not."""
    bias = trainer.network[5].bias
    bias.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    trainer._optimizer.state[bias]["momentum_buffer"].fill_(3e38)


def spoil_statistics(trainer):
    """A variance that overflows leaves loss and gradients finite."""
    trainer.network[0].weight.data *= 1e25


SPOILT = {
    "the loss": spoil_centres,
    "the gradient of 5.weight": spoil_gradient,
    "5.bias": spoil_weight,
    "1.running_var": spoil_statistics,
}


def spoilt_at(trainer, step, how):
    learn = trainer.learn

    def spoiled(*batch):
        if trainer.step == step:
            how(trainer)
        return learn(*batch)

    trainer.learn = spoiled
    return trainer


@pytest.mark.parametrize("what", SPOILT)
def test_the_first_number_that_is_not_finite_stops_the_run(tmp_path, what):
    trainer = spoilt_at(make(lr=1.0), 6, SPOILT[what])
    with pytest.raises(InputError) as caught:
        go(trainer, tmp_path, save_every=1, keep=9)
    assert f"step 7 (batch 3 of 4 of epoch 2): {what} is not finite" in str(caught.value)
    assert "--resume and a lower --learning-rate" in str(caught.value)
    assert [path.stem for path in train.saved(tmp_path)][-1] == "00000006"
    assert [path.stem for path in (tmp_path / "weights").iterdir()] == ["00001"]
    for path in tmp_path.rglob("*.pth"):
        state = torch.load(path, weights_only=True)
        for name, value in (state.get("state_dict") or state["network"]).items():
            assert bool(value.isfinite().all()), (path, name)


def test_a_momentum_that_is_not_finite_is_not_saved(tmp_path):
    trainer = make()
    go(trainer, tmp_path)
    kept = train.saved(tmp_path)
    trainer._optimizer.state[trainer.head.weight]["momentum_buffer"][0, 0] = float("inf")
    with pytest.raises(InputError, match=r"step 20 .* of epoch 5\): the optimiser"):
        trainer.save(tmp_path)
    assert train.saved(tmp_path) == kept


def test_with_a_lower_rate_it_goes_on_from_the_last_checkpoint(tmp_path):
    with pytest.raises(InputError, match="step 7"):
        go(spoilt_at(make(), 6, spoil_centres), tmp_path)
    again = make(lr=0.01)
    with pytest.raises(WeightsError, match="--resume goes on with another learning rate"):
        again.go_on(tmp_path)
    again.go_on(tmp_path, other_rate=True)
    assert again.step == 4
    assert go(again, tmp_path)[0]
    assert [row["lr"] for row in again.epochs] == pytest.approx([0.05, 0.01, 0.01, 0.001, 0.001])
    with pytest.raises(WeightsError, match="belongs to another training"):
        make(lr=0.01, seed=1).go_on(tmp_path, other_rate=True)


def test_a_checkpoint_of_a_diverged_training_is_refused(tmp_path):
    """As earlier versions wrote them."""
    trainer = make(epochs=1)
    go(trainer, tmp_path)
    (path,) = train.saved(tmp_path)
    state = torch.load(path, weights_only=True)
    state["network"]["1.running_var"][0] = float("inf")
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"network\.1\.running_var is not finite; remove it"):
        make(epochs=1).go_on(tmp_path)


def test_embeddings_that_overflow_in_the_verification_stop_the_run(tmp_path, monkeypatch):
    found = np.full((4, EMBEDDING), np.inf)
    monkeypatch.setattr(train, "embed", lambda *given: found)
    pairs = ValidationPairs([], np.array([[0, 1], [2, 3]]), np.array([True, False]))
    with pytest.raises(InputError, match=r"step 4 .* an embedding of --val_pairs is not finite"):
        make().run(tmp_path, RunSettings(), say=lambda line: None, pairs=pairs)
    assert not train.saved(tmp_path)


@pytest.mark.parametrize(("precision", "steps"), [("bf16", 4), ("fp16", 1)])
def test_half_precision_stays_near(whole, tmp_path, precision, steps):
    """In fp16 until the first gradient overflows and its step is left out."""
    trainer = make(precision=precision)
    assert go(trainer, tmp_path)[0]
    found, expected = losses(trainer), losses(whole[0])
    np.testing.assert_allclose(found[:steps], expected[:steps], rtol=0.05)
    assert np.isfinite(found).all() and found[-1] < found[0]
    assert trainer.network[0].weight.dtype == torch.float32
    assert trainer._scaler.is_enabled() == (precision == "fp16")


def test_workers_change_nothing(whole, tmp_path):
    trainer = make()
    trainer._workers = 2
    assert go(trainer, tmp_path)[0]
    assert_same(whole[0], trainer)


def test_compiled_it_is_one_graph_and_the_same(whole, monkeypatch, tmp_path):
    """The compiler's front; its back only makes it faster."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend="aot_eager"))
    trainer = make(compiled=True)
    assert go(trainer, tmp_path)[0]
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert_same(whole[0], trainer)


# Order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_no_face_is_left_out_or_seen_twice(world):
    parts = [list(Batches(21, 4, 3, seed=1, rank=rank, world=world)) for rank in range(world)]
    together = [list(chain(*batch)) for batch in zip(*parts)]
    assert together == list(Batches(21, 4, 3, seed=1))
    for epoch in range(3):
        seen = [key for batch in together[5 * epoch : 5 * epoch + 5] for key in batch]
        assert {key[0] for key in seen} == {epoch}
        assert len({key[1] for key in seen}) == 20
    assert [key[1] for key in together[0]] != [key[1] for key in together[5]]


def test_an_order_that_is_gone_into_is_the_same():
    batches = Batches(21, 4, 3, seed=1)
    everything = list(batches)
    batches.start = 7
    assert len(batches) == 8
    assert list(batches) == everything[7:]


@pytest.mark.parametrize(("size", "world"), [(22, 1), (5, 2)])
def test_batches_that_do_not_fit_are_refused(size, world):
    with pytest.raises(InputError, match="batch size"):
        Batches(21, size, 1, seed=0, world=world)


# Two processes ------------------------------------------------------------------------------------


def diverging_rank(rank, folder):
    """A gradient that is not finite in one slice of the classes stops both processes."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    trainer = make(processes=Processes(rank, 2), head="sharded")
    if rank == 1:
        trainer.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    what = "the gradient of the class centres" if rank == 1 else "a number of another process"
    with pytest.raises(InputError, match=f"step 1 .*: {what} is not finite"):
        go(trainer, folder)
    torch.distributed.destroy_process_group()


def test_all_processes_stop_at_one_that_diverged(tmp_path):
    processes = [start(diverging_rank, rank, tmp_path) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def child_rank(rank, folder, settings, change):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    build = tiny if settings.pop("single", False) else lambda: tiny().double()
    if change == "norms":
        train.synchronise_batch_norms = lambda network, processes: None
    trainer = make(build, processes=Processes(rank, 2), **settings)
    if change == "dropout":
        torch.manual_seed(rank)
        for dropout in trainer._dropouts:
            dropout.forward = nn.Dropout2d(0.4).forward
    go(trainer, folder)
    torch.distributed.destroy_process_group()


def on_two(folder, settings, change=""):
    """Train on two processes; return a trainer with what they computed."""
    processes = [start(child_rank, rank, folder, dict(settings), change) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    single = settings.pop("single", False)
    trainer = make(tiny if single else lambda: tiny().double(), **settings)
    trainer.resume(train.saved(folder)[-1])
    return trainer


def on_one(folder, settings):
    trainer = make(lambda: tiny().double(), **settings)
    assert go(trainer, folder)[0]
    return trainer


def differences(first, second):
    """Return the largest difference of losses and that of weights, in units of the largest."""
    weights = [
        (a - b).abs().max() / b.abs().max().clamp(min=1e-3)
        for a, b in zip(first.network.state_dict().values(), second.network.state_dict().values())
    ]
    weights.append((first.head.weight - second.head.weight).detach().abs().max())
    of_losses = np.abs(np.array(losses(first)) / losses(second) - 1.0)
    return of_losses.max(), max(float(weight) for weight in weights)


@pytest.mark.parametrize("head", ["replicated", "sharded"])
def test_two_processes_compute_what_one_does(tmp_path, head):
    settings = {"head": head}
    two = on_two(tmp_path, settings)
    one = on_one(tmp_path / "one", settings)
    assert len(losses(two)) == len(losses(one)) == 20
    of_losses, of_weights = differences(two, one)
    assert of_losses < 1e-6 and of_weights < 1e-6
    for ours, theirs in zip(two.epochs, one.epochs):
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("change", ["norms", "dropout"])
def test_what_is_not_shared_between_processes_is_noticed(tmp_path, change):
    two = on_two(tmp_path, {"epochs": 1}, change)
    one = on_one(tmp_path / "one", {"epochs": 1})
    assert max(differences(two, one)) > 1e-6


@pytest.mark.parametrize("head", ["replicated", "sharded"])
def test_in_single_precision_the_first_loss_is_the_same(tmp_path, head):
    settings = {"head": head, "epochs": 1}
    two = on_two(tmp_path, {**settings, "single": True})
    one = make(**settings)
    go(one, tmp_path / "one")
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-5)


# Plots --------------------------------------------------------------------------------------------


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from facezoo.reports.plots import plot_lengths, plot_losses

    plot_losses({"fp32": [3.0, 2.0, 1.0], "bf16": [3.0, 2.1, 1.1]}, tmp_path / "losses.svg")
    plot_lengths(np.array([11.0, 12.0]), np.array([0.5, 0.9]), tmp_path / "lengths.svg")
    assert all((tmp_path / f"{name}.svg").stat().st_size > 5000 for name in ("losses", "lengths"))
