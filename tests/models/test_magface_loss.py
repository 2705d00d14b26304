"""MagFace's losses against the authors' numbers, a loop, and the places where they are delicate."""

import math
from pathlib import Path

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.models.magface.settings import LOSSES, LossSettings, TrainSettings, propose_bounds

torch = pytest.importorskip("torch")
from facezoo.models.magface.loss import MagHead  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

GOLDEN = Path(__file__).parent.parent / "golden" / "magface"
MODES = [("easy", True), ("hard", False)]


@pytest.fixture(scope="module")
def golden():
    return {**np.load(GOLDEN / "magface_loss.npz"), **np.load(GOLDEN / "magface_loss_weight.npz")}


def make_head(weight, dtype=torch.float64, **settings):
    head = MagHead(*weight.shape, LossSettings(**settings)).to(dtype)
    head.weight.data.copy_(torch.as_tensor(weight))
    return head


def run(golden, easy_margin, dtype):
    head = make_head(golden["weight"], dtype, easy_margin=easy_margin)
    features = torch.from_numpy(golden["features"]).to(dtype).requires_grad_()
    output = head(features, torch.from_numpy(golden["target"]))
    output.loss.backward()
    return head, features, output


def assert_gradient(found, expected, tolerance):
    expected = torch.from_numpy(expected)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


# The authors' numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "easy_margin"), MODES)
def test_float64_equals_the_authors(golden, mode, easy_margin):
    head, features, output = run(golden, easy_margin, torch.float64)
    assert output.identity.item() == pytest.approx(golden[f"{mode}_loss_id_f64"], rel=1e-9)
    assert output.magnitude.item() == pytest.approx(golden[f"{mode}_loss_g_f64"], rel=1e-9)
    assert_gradient(features.grad, golden[f"{mode}_grad_total_features_f64"], 1e-9)
    assert_gradient(head.weight.grad, golden[f"{mode}_grad_total_weight"], 1e-5)
    np.testing.assert_allclose(output.margins, golden[f"{mode}_margin"][:, 0], rtol=1e-6)
    clamped = output.lengths.clamp(10, 110)
    np.testing.assert_allclose(clamped, golden[f"{mode}_x_norm_f64"][:, 0], rtol=1e-9)


@pytest.mark.parametrize(("mode", "easy_margin"), MODES)
def test_float32_equals_the_authors(golden, mode, easy_margin):
    head, features, output = run(golden, easy_margin, torch.float32)
    assert output.identity.item() == pytest.approx(golden[f"{mode}_loss_id"], rel=1e-6)
    assert output.magnitude.item() == pytest.approx(golden[f"{mode}_loss_g"], rel=1e-6)
    assert_gradient(features.grad.double(), golden[f"{mode}_grad_total_features_f64"], 1e-5)
    assert_gradient(head.weight.grad, golden[f"{mode}_grad_total_weight"], 1e-5)


@pytest.mark.shared
@pytest.mark.parametrize(("mode", "easy_margin"), MODES)
def test_each_loss_alone_has_the_authors_gradients(shared, mode, easy_margin):
    golden = np.load(shared / "golden" / "numerics" / "magface_loss.npz")
    labels = torch.from_numpy(golden["target"])
    for dtype, suffix, tolerance in ((torch.float64, "_f64", 1e-9), (torch.float32, "", 1e-5)):
        head = make_head(golden["weight"], dtype, easy_margin=easy_margin)
        features = torch.from_numpy(golden["features"]).to(dtype).requires_grad_()
        for loss, name in (("identity", "id"), ("magnitude", "g")):
            output = head(features, labels)
            (gradient,) = torch.autograd.grad(getattr(output, loss), features)
            assert_gradient(gradient, golden[f"{mode}_grad_{name}_features{suffix}"], tolerance)
    (gradient,) = torch.autograd.grad(head(features, labels).identity, head.weight)
    assert_gradient(gradient, golden[f"{mode}_grad_id_weight"], 1e-5)


def test_logits_of_the_own_class_are_the_authors(golden):
    _, _, output = run(golden, True, torch.float64)
    rows = np.arange(16), golden["target"]
    np.testing.assert_allclose(64 * output.cosines, golden["easy_logits"][rows], atol=1e-4)
    assert (output.is_right.numpy() == (golden["easy_logits"].argmax(1) == golden["target"])).all()


# By hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_a_loop(rng, name):
    features = rng.normal(size=(6, 5)) * rng.uniform(1, 60, (6, 1))
    weight, labels = rng.normal(size=(5, 4)), rng.integers(0, 4, 6)
    settings = LossSettings(name, scale=20.0)
    total = 0.0
    for x, label in zip(features, labels):
        length = min(max(np.linalg.norm(x), 10.0), 110.0)
        low, high = settings.margins
        margin = low + (high - low) * (length - 10.0) / 100.0
        cosines = [x @ w / np.linalg.norm(x) / np.linalg.norm(w) for w in weight.T]
        own = cosines[label]
        if name == "mag-cosface":
            cosines[label] = own - margin
        elif own > 0:
            cosines[label] = math.cos(math.acos(own) + margin)
        logits = 20.0 * np.array(cosines)
        identity = np.log(np.exp(logits).sum()) - logits[label]
        total += identity + settings.weight * (length / 110.0**2 + 1.0 / length)
    output = make_head(weight, name=name, scale=20.0)(
        torch.from_numpy(features), torch.from_numpy(labels)
    )
    assert output.loss.item() == pytest.approx(total / 6, rel=1e-12)


# Where they are delicate --------------------------------------------------------------------------

LENGTHS = (0.0, 1e-30, 1e-3, 9.999, 10.0, 50.0, 110.0, 110.001, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("easy_margin", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_are_finite_at_the_ends(dtype, easy_margin, length):
    """Faces that lie on their class's direction and opposite to it, of every length."""
    weight = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    head = make_head(weight, dtype, easy_margin=easy_margin)
    features = torch.tensor([[length, 0, 0], [-length, 0, 0]], dtype=dtype, requires_grad=True)
    output = head(features, torch.tensor([0, 0]))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(head.weight.grad).all()
    # Short enough a step for any optimiser to survive.
    assert features.grad.abs().max() < 1e6


@pytest.mark.parametrize("easy_margin", [True, False])
@pytest.mark.parametrize("angle", [1e-3, 1.0, 2.0, math.pi - 1e-3])
def test_gradients_next_to_the_ends_are_the_slope(easy_margin, angle):
    head = make_head(np.array([[1.0, 0.0], [0.0, 1.0]]), easy_margin=easy_margin)

    def loss(angle):
        features = 50 * torch.stack([torch.cos(angle), torch.sin(angle)])[None]
        return head(features, torch.tensor([0])).loss

    at = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(at), at)
    with torch.no_grad():
        expected = (loss(at + 1e-7) - loss(at - 1e-7)) / 2e-7
    assert slope.item() == pytest.approx(expected.item(), rel=1e-4)


def test_half_precision_computes_in_float32(golden):
    head, _, expected = run(golden, True, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(torch.from_numpy(golden["features"]), torch.from_numpy(golden["target"]))
        coarse = head(
            torch.from_numpy(golden["features"]).bfloat16(), torch.from_numpy(golden["target"])
        )
    assert output.loss.dtype == coarse.loss.dtype == torch.float32
    assert output.loss.item() == expected.loss.item()


# Settings -----------------------------------------------------------------------------------------


def test_the_bound_of_lambda_follows_from_the_arguments():
    assert LossSettings().bound == pytest.approx(22.587, abs=5e-4)
    assert LossSettings(scale=32.0).bound == pytest.approx(22.587 / 2, abs=5e-4)
    assert LossSettings("mag-cosface").bound == pytest.approx(29.04, abs=5e-3)
    assert LossSettings("arcface").bound == 0.0
    LossSettings(lambda_g=22.587)
    with pytest.raises(InputError, match=r"lambda_g 20 is below its bound 22\.587"):
        LossSettings(lambda_g=20.0)
    with pytest.raises(InputError, match=r"lambda_g 5 is below its bound 0?\.?\d"):
        LossSettings(l_a=10.0, u_a=12.0, lambda_g=5.0)


def test_at_the_bound_no_face_wants_to_be_shorter_than_the_range():
    """Whatever its angle; below the bound some do, and their lengths collapse."""

    def slopes(settings):
        head = make_head(np.array([[1.0, -1.0], [0.0, 0.0]]), name="magface")
        head.settings = settings
        angles = torch.linspace(0.01, 3.1, 50).double()
        lengths = torch.full_like(angles, 10.0 + 1e-6).requires_grad_()
        features = lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
        head(features, torch.zeros(50, dtype=torch.int64)).loss.backward()
        return lengths.grad

    at_bound = LossSettings(lambda_g=LossSettings().bound, easy_margin=False)
    assert (slopes(at_bound) < 0).all()
    below = LossSettings(easy_margin=False)
    object.__setattr__(below, "lambda_g", 0.8 * at_bound.bound)
    assert (slopes(below) > 0).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "cosface"},
        {"l_a": 0.0},
        {"l_a": 110.0},
        {"l_margin": 0.9},
        {"l_margin": -0.1},
        {"scale": 0.0},
        {"lambda_g": float("nan")},
    ],
)
def test_other_settings_are_refused(wrong):
    with pytest.raises(InputError):
        LossSettings(**wrong)


def test_training_settings():
    settings = TrainSettings(lr_drop_epoch=(2, 4))
    assert [settings.lr_in(epoch) for epoch in range(5)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    for wrong in ({"epochs": 0}, {"batch_size": 1}, {"precision": "fp8"}, {"head": "split"}):
        with pytest.raises(InputError):
            TrainSettings(**wrong)


def test_bounds_leave_room_for_the_lengths_seen():
    low, high = propose_bounds(0.83, 1.22)
    assert (low, high) == (0.66, 1.5)
    with pytest.raises(InputError, match="lengths must be above 0"):
        propose_bounds(0.0, 1.0)
