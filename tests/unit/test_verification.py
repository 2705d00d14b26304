"""Verification metrics: the originals' counts, a literal reference, hand-made cases, properties."""

import math

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.metrics import verification
from facezoo.metrics.pairs import k_fold_accuracy_of, pair_cosines
from facezoo.metrics.verification import (
    Threshold,
    angular_distance,
    best_threshold,
    cosine_similarity,
    facenet_evaluation,
    k_fold_accuracy,
    operating_points,
    roc_curve,
    threshold_at_fmr,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

TOLERANCE = 1e-9  # counts over counts


def literal(first, second, is_same, folds=10, measure=angular_distance, subtract_mean=True):
    """Return what the protocols' definitions give, every pair against every threshold."""
    coarse, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    everyone = np.arange(len(is_same))
    names = ("accuracies", "tpr", "fpr", "accepted", "val", "far")
    found = {name: [] for name in names}
    for test in np.array_split(everyone, folds):
        train = np.setdiff1d(everyone, test)
        mean = np.mean(np.concatenate([first[train], second[train]]), axis=0) * subtract_mean
        with np.errstate(invalid="ignore"):
            distance = measure(first - mean, second - mean)[:, None]

        def rates(part, thresholds, distance=distance):
            below, same = distance[part] < thresholds, is_same[part, None]
            true, false = np.sum(below & same, axis=0), np.sum(below & ~same, axis=0)
            return true / max(np.sum(same), 1), false / max(np.sum(~same), 1)

        right = (distance < coarse) == is_same[:, None]
        best = int(np.argmax(np.mean(right[train], axis=0)))
        tpr, fpr = rates(test, coarse)
        train_far = rates(train, fine)[1]
        limit = np.interp(1e-3, train_far, fine) if train_far.max() >= 1e-3 else 0.0
        val, far = rates(test, limit)
        values = (np.mean(right[test, best]), tpr, fpr, distance[test, 0] < coarse[best], val, far)
        for name, value in zip(names, values):
            found[name].append(value)
    accepted = np.concatenate(found.pop("accepted"))
    return {"accepted": accepted, **{name: np.array(values) for name, values in found.items()}}


def squared_l2(first, second):
    return np.array([np.sum((a - b) ** 2) for a, b in zip(first, second)])


def random_pairs(rng, pairs=120, size=16, offset=0.3):
    is_same = rng.random(pairs) < 0.5
    first = rng.standard_normal((pairs, size)) + offset
    noise = rng.standard_normal((pairs, size))
    second = np.where(is_same[:, None], first + 0.9 * noise, noise + offset)
    return first, second, is_same


@pytest.mark.shared
def test_the_authors_protocol_gives_the_authors_numbers(shared):
    golden = np.load(shared / "golden" / "numerics" / "verification_1v1.npz")
    found = k_fold_accuracy(golden["emb1"], golden["emb2"], golden["issame"])
    for name, values in {
        "accuracy": found.accuracies,
        "tpr": found.tpr,
        "fpr": found.fpr,
        "mean": found.mean,
        "std": found.std,
    }.items():
        np.testing.assert_allclose(values, golden[f"eval1v1_{name}"], rtol=0, atol=TOLERANCE)
    assert str(found) == "0.97167+-0.02587"


@pytest.mark.shared
def test_the_vendors_protocol_gives_the_vendors_numbers(shared):
    golden = np.load(shared / "golden" / "numerics" / "verification_1v1.npz")
    pair = (golden[name].astype(np.float64) for name in ("emb1", "emb2"))
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair)
    found = facenet_evaluation(first, second, golden["issame"])
    for name, values in {
        "accuracy": found.accuracies,
        "tpr": found.tpr,
        "fpr": found.fpr,
        "val": found.val,
        "val_std": found.val_std,
        "far": found.fmr,
    }.items():
        np.testing.assert_allclose(values, golden[f"facenet_l2_{name}"], rtol=0, atol=TOLERANCE)
    assert np.array_equal(found.false_positives, golden["facenet_l2_false_pos"])
    assert np.array_equal(found.false_negatives, golden["facenet_l2_false_neg"])


@pytest.mark.parametrize("folds", [2, 7, 10])
@pytest.mark.parametrize("offset", [0.0, 0.3, 1e7])
def test_k_fold_equals_its_definition(rng, folds, offset):
    # A mean ten million times the spread leaves few digits to the fast form, which must notice.
    first, second, is_same = random_pairs(rng, offset=offset)
    found = k_fold_accuracy(first, second, is_same, folds=folds)
    expected = literal(first, second, is_same, folds)
    assert np.array_equal(found.accuracies, expected["accuracies"])
    np.testing.assert_allclose(found.tpr, expected["tpr"].mean(axis=0), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.fpr, expected["fpr"].mean(axis=0), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [4, 64])  # with 64 values the distances leave the thresholds
def test_the_vendors_protocol_equals_its_definition(rng, size):
    first, second, is_same = random_pairs(rng, size=size, offset=0.1)
    found = facenet_evaluation(first, second, is_same)
    expected = literal(first, second, is_same, 10, squared_l2, False)
    accepted = expected["accepted"]
    assert np.array_equal(found.accuracies, expected["accuracies"])
    assert np.array_equal(found.false_positives, accepted & ~is_same)
    assert np.array_equal(found.false_negatives, ~accepted & is_same)
    np.testing.assert_allclose(found.tpr, expected["tpr"].mean(axis=0), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.fpr, expected["fpr"].mean(axis=0), rtol=0, atol=TOLERANCE)
    rates = [found.val, found.val_std, found.fmr]
    defined = [np.mean(expected["val"]), np.std(expected["val"]), np.mean(expected["far"])]
    np.testing.assert_allclose(rates, defined, rtol=0, atol=TOLERANCE)


def test_pairs_on_a_threshold_are_decided_as_the_original_does(rng, monkeypatch):
    # Right angles, in pairs that cancel out in every mean: a distance of exactly 0.5, which is a
    # threshold, and `<` rejects it there. Half of the pairs are rather nearer, half further.
    asked = []
    original = verification._distance_as_original
    monkeypatch.setattr(
        verification, "_distance_as_original", lambda *a: asked.append(a) or original(*a)
    )
    axes = np.eye(4)
    one = np.concatenate([axes[:2], -axes[:2]])
    other = np.concatenate([axes[2:], -axes[2:]])
    first, second = np.tile(one, (10, 1)), np.tile(other, (10, 1))
    is_same = np.tile([True, False, True, False], 10)
    assert (angular_distance(first, second) == 0.5).all()
    found = k_fold_accuracy(first, second, is_same)
    assert asked
    assert np.array_equal(found.accuracies, literal(first, second, is_same)["accuracies"])
    assert found.tpr[50] == 0.0
    assert found.tpr[51] == 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_coarse_vectors_with_many_ties_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-1, 2, (2, 24, 3)) + 0.0
    first[(first == 0).all(axis=1)] = second[(second == 0).all(axis=1)] = [0.0, 0.0, 1.0]
    is_same = rng.random(24) < 0.5
    found = k_fold_accuracy(first, second, is_same, folds=4)
    assert np.array_equal(found.accuracies, literal(first, second, is_same, 4)["accuracies"])


def test_the_order_of_a_folds_pairs_does_not_matter(rng):
    first, second, is_same = random_pairs(rng)
    order = np.concatenate([rng.permutation(12) + 12 * fold for fold in range(10)])
    shuffled = k_fold_accuracy(first[order], second[order], is_same[order])
    found = k_fold_accuracy(first, second, is_same)
    np.testing.assert_allclose(shuffled.accuracies, found.accuracies, atol=1e-12)


def test_perfect_and_useless_embeddings():
    axes = np.tile(np.eye(8), (5, 1))
    is_same = np.tile([True, False], 20)
    other = np.where(is_same[:, None], axes, np.roll(axes, 1, axis=1))
    assert k_fold_accuracy(axes, other, is_same).mean == 1.0
    assert k_fold_accuracy(axes, axes, is_same).mean == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, s: (a[:5], b, s), r"two arrays \(N, D\) and labels \(N,\), got \(5, 16\)"),
        (lambda a, b, s: (a, b, s[:5]), r"and \(5,\)"),
        (lambda a, b, s: (a[0], b[0], s[:16]), r"got \(16,\)"),
        (lambda a, b, s: (a[:3], b[:3], s[:3]), "3 pairs cannot be split into 10 folds"),
        (lambda a, b, s: (a, np.where(np.arange(120)[:, None] == 7, np.nan, b), s), "embedding 7 "),
        (lambda a, b, s: (np.where(np.arange(120)[:, None] == 3, np.inf, a), b, s), "embedding 3 "),
        (lambda a, b, s: (a * (np.arange(120)[:, None] > 0), b, s), "embedding 0 of the first"),
    ],
)
@pytest.mark.parametrize("evaluate", [k_fold_accuracy, facenet_evaluation])
def test_unusable_pairs_are_refused(rng, evaluate, change, message):
    with pytest.raises(InputError, match=message):
        evaluate(*change(*random_pairs(rng)))


def test_the_vendors_protocol_refuses_what_its_rates_cannot_say(rng):
    first, second, _ = random_pairs(rng)
    with pytest.raises(InputError, match="pairs 0 to 11 or the rest contain no genuine"):
        facenet_evaluation(first, second, np.arange(120) >= 12)


def test_equal_vectors_are_no_angle_apart(rng):
    vectors = rng.standard_normal((50, 32))
    scaled = vectors * rng.uniform(0.1, 9.0, (50, 1))
    assert np.isfinite(angular_distance(vectors, scaled)).all()
    assert (angular_distance(vectors, scaled) < 1e-7).all()


def test_cosines_by_hand():
    cosines = cosine_similarity(np.array([[1.0, 0.0]] * 3), np.array([[2, 0], [0, 5], [-1.0, 0]]))
    assert cosines.tolist() == [1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("cosine", "l2", "angle", "degrees"),
    [
        (1.0, 0.0, 0.0, 0.0),
        (0.5, 1.0, 1 / 3, 60.0),
        (0.0, math.sqrt(2), 0.5, 90.0),
        (-1.0, 2.0, 1.0, 180.0),
    ],
)
def test_thresholds_convert_by_hand(cosine, l2, angle, degrees):
    for threshold in (Threshold.from_cosine(cosine), Threshold(angle)):
        assert threshold.cosine == pytest.approx(cosine, abs=TOLERANCE)
        assert threshold.l2 == pytest.approx(l2, abs=TOLERANCE)
        assert threshold.angle == pytest.approx(angle, abs=TOLERANCE)
        assert threshold.degrees == pytest.approx(degrees, abs=1e-6)


@given(st.floats(-0.999, 0.999))
def test_thresholds_convert_there_and_back(cosine):
    threshold = Threshold.from_cosine(cosine)
    assert abs(threshold.cosine - cosine) <= TOLERANCE
    assert abs(threshold.l2 - math.sqrt(2.0 - 2.0 * cosine)) <= TOLERANCE


@pytest.mark.parametrize("value", [1.001, -1.001, math.nan])
def test_thresholds_out_of_range_are_refused(value):
    with pytest.raises(InputError, match="from -1 to 1, got"):
        Threshold.from_cosine(value)


def test_roc_by_hand():
    curve = roc_curve(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False]))
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.1]
    assert curve.matched.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.fnmr.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert curve.fmr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert curve.area == 0.875


@given(st.integers(0, 2**32 - 1))
def test_the_area_is_the_chance_that_a_genuine_pair_is_nearer(seed):
    rng = np.random.default_rng(seed)
    similarities, is_same = rng.integers(0, 6, 30) / 6.0, np.arange(30) < rng.integers(1, 30)
    genuine, impostors = similarities[is_same][:, None], similarities[~is_same]
    expected = np.mean(genuine > impostors) + np.mean(genuine == impostors) / 2.0
    assert abs(roc_curve(similarities, is_same).area - expected) < 1e-12


def test_operating_points_by_hand():
    impostors = np.linspace(-0.5, 0.499, 1000)  # 0.499, 0.498, 0.497, …
    genuine = np.linspace(0.4005, 0.8, 100)
    is_same = np.arange(1100) < 100
    point, refused = operating_points(np.concatenate([genuine, impostors]), is_same, [0.05, 0.005])
    # 50 impostors may pass: the threshold is the 51st, 0.449, and pairs above it pass.
    assert point.threshold.cosine == pytest.approx(0.449, abs=1e-9)
    assert point.fnmr == pytest.approx(np.mean(genuine < 0.4491))
    assert point.low < point.fnmr < point.high
    assert not point.refusal
    assert refused.fnmr is refused.low is refused.high is refused.threshold is None
    needed = "FMR 0.005 needs at least 2000 impostor pairs, there are 1000"
    assert refused.refusal.startswith(needed)


def test_one_threshold_at_a_false_match_rate(rng):
    impostors = rng.permutation(np.linspace(-0.5, 0.499, 1000))
    found = threshold_at_fmr(impostors, 0.05)
    assert (found.similarity, found.impostors) == (np.sort(impostors)[-51], 1000)
    assert np.mean(impostors > found.similarity) == 0.05
    assert threshold_at_fmr(impostors, 0.01).similarity == np.sort(impostors)[-11]
    for fmr, needed in ((0.0099, 1011), (1e-3, 10_000)):
        with pytest.raises(InputError, match=f"needs at least {needed} impostor pairs, there are"):
            threshold_at_fmr(impostors, fmr)


def test_few_impostors_widen_the_interval_however_many_genuine_pairs_there_are():
    impostors, genuine = np.linspace(-0.5, 0.499, 1000), np.linspace(0.4, 0.5, 100_001)
    is_same = np.arange(101_001) < 100_001
    (point,) = operating_points(np.concatenate([genuine, impostors]), is_same, [0.05])
    # Of 1,000 impostors 35 to 66 are nearer than the true threshold, with 97.5 %: it lies between
    # the 67th, 0.433, and the 35th, 0.465.
    assert point.fnmr == pytest.approx(0.49, abs=1e-3)
    assert point.low == pytest.approx(0.33, abs=0.02)
    assert point.high == pytest.approx(0.65, abs=0.02)


def test_three_thousand_impostors_are_too_few_for_one_in_ten_thousand(rng):
    cosines, is_same = rng.uniform(-1, 1, 6000), np.arange(6000) < 3000
    fmrs = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    refused = [bool(point.refusal) for point in operating_points(cosines, is_same, fmrs)]
    assert refused == [False, True, True, True, True]


def test_ties_among_impostors_never_raise_the_false_match_rate():
    impostors = np.repeat([0.5, 0.2], [30, 970])
    (point,) = operating_points(
        np.concatenate([np.full(10, 0.5), impostors]), np.arange(1010) < 10, [0.02]
    )
    assert point.fnmr == 1.0  # one tie that matched would match all 30, where 20 may
    assert point.threshold.cosine == pytest.approx(0.5)


def test_intervals_hold_the_true_rate_as_often_as_they_say(rng):
    # Genuine N(1.5, 1), impostors N(0, 1): the true rate at FMR 0.05 is known.
    true = 0.5 * (1.0 + math.erf((1.6448536 - 1.5) / math.sqrt(2.0)))
    is_same = np.arange(600) < 200
    held = 0
    for _ in range(300):
        scores = rng.standard_normal(600) + 1.5 * is_same
        (point,) = operating_points(scores / 10.0, is_same, [0.05])
        held += point.low <= true <= point.high
    assert held >= 0.95 * 300


def test_best_threshold_by_hand():
    cosines, is_same = np.array([0.9, 0.7, 0.5, 0.3]), np.array([1, 1, 0, 0])
    threshold, accuracy = best_threshold(cosines, is_same)
    assert threshold.cosine == pytest.approx(0.6)
    assert accuracy == 1.0
    threshold, accuracy = best_threshold(cosines, ~is_same.astype(bool))
    assert (round(threshold.cosine, 9), accuracy) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("cosines", "labels", "message"),
    [
        ([0.1, 0.2], [1, 1], "2 genuine and 0 impostor pairs"),
        ([], [], "0 genuine and 0 impostor pairs"),
        ([0.1, math.nan], [1, 0], "similarity 1 is not finite"),
        ([0.1, 0.2, 0.3], [1, 0], r"got \(3,\) and \(2,\)"),
    ],
)
@pytest.mark.parametrize(
    "measure", [roc_curve, best_threshold, lambda c, s: operating_points(c, s, [0.1])]
)
def test_unusable_similarities_are_refused(measure, cosines, labels, message):
    with pytest.raises(InputError, match=message):
        measure(np.array(cosines), np.array(labels))


@pytest.mark.parametrize("fmr", [0.0, 1.0, -0.1, math.nan])
def test_false_match_rates_out_of_range_are_refused(fmr):
    with pytest.raises(InputError, match="must be between 0 and 1"):
        operating_points(np.array([0.1, 0.2]), np.array([1, 0]), [fmr])
    with pytest.raises(InputError, match="must be between 0 and 1"):
        threshold_at_fmr(np.arange(99.0), fmr)


# Many pairs of few images -------------------------------------------------------------------------


def images_and_pairs(rng, images=120, people=30):
    """Embeddings that are alike within a person; identical, opposite and all pairs among them."""
    whose = rng.integers(people, size=images)
    vectors = rng.normal(0, 1, (people, 32))[whose] + rng.normal(0, 0.6, (images, 32))
    vectors[7], vectors[9] = vectors[8], -vectors[8]
    pairs = np.stack(np.triu_indices(images, k=1), axis=1)
    pairs = pairs[rng.permutation(len(pairs))]
    return vectors, pairs, whose[pairs[:, 0]] == whose[pairs[:, 1]]


@pytest.mark.parametrize("folds", [2, 10])
def test_pairs_of_images_are_evaluated_like_pairs_of_vectors(rng, folds, monkeypatch):
    monkeypatch.setattr("facezoo.metrics.pairs.BLOCK", 1000)
    vectors, pairs, is_same = images_and_pairs(rng)
    first, second = vectors[pairs[:, 0]], vectors[pairs[:, 1]]
    assert (pair_cosines(vectors, pairs) == cosine_similarity(first, second)).all()
    found = k_fold_accuracy_of(vectors, pairs, is_same, folds=folds)
    expected = k_fold_accuracy(first, second, is_same, folds=folds)
    for name in ("accuracies", "thresholds", "tpr", "fpr"):
        assert (getattr(found, name) == getattr(expected, name)).all()
    with pytest.raises(InputError, match="7140 pairs cannot be split into 8000 folds"):
        k_fold_accuracy_of(vectors, pairs, is_same, folds=8000)
    vectors[5] = np.nan
    with pytest.raises(InputError, match="embedding 5 of the images"):
        k_fold_accuracy_of(vectors, pairs, is_same)


@given(st.floats(0.001, 0.999), st.integers(1, 10**6), st.floats(1e-6, 0.999))
def test_binomial_quantiles_equal_scipys(probability, trials, chance):
    found = verification.binomial_quantile(probability, trials, chance)
    expected = int(stats.binom.ppf(probability, trials, chance))
    # On a step of the distribution the last bit of the sum decides.
    at_step = abs(stats.binom.cdf(min(found, expected), trials, chance) - probability) < 1e-9
    assert found == expected or (at_step and abs(found - expected) == 1)
