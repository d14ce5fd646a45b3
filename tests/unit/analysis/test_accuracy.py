"""Accuracy and area from samples: the worked examples of the papers, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geoseg.analysis.accuracy import Sample, estimate
from geoseg.analysis.allocation import allocate, sample_size
from geoseg.errors import DataError, OptionError

CHANGE = ("deforestation", "forest gain", "stable forest", "stable non-forest")
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
"""Olofsson et al. (2014), Table 8: rows are classes of the map, columns of the reference."""
PIXELS = (200_000, 150_000, 3_200_000, 6_450_000)
HECTARES = 0.09
"""Of a Landsat pixel."""


def expand(counts, names):
    """A point for each count: its class on the map, and the true one."""
    pairs = [
        (names[row], names[column])
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
        for _ in range(count)
    ]
    return tuple(np.array(each, object) for each in zip(*pairs, strict=True))


def olofsson():
    mapped, truth = expand(COUNTS, CHANGE)
    return Sample(mapped, mapped, truth, dict(zip(CHANGE, PIXELS, strict=True)))


def test_olofsson_2014():
    """Olofsson et al. (2014), section 5, Tables 8 and 9 and p. 54.

    For the producer's accuracy of the second and fourth class the paper prints ±0.23 and ±0.01,
    its equation 7 gives ±0.25 and ±0.02.
    """
    found = estimate(olofsson(), CHANGE)
    assert found.names == CHANGE
    assert found.points == 640
    printed = [  # Table 9, the matrix in shares of the area
        [0.0176, 0.0000, 0.0013, 0.0011],
        [0.0000, 0.0110, 0.0016, 0.0024],
        [0.0019, 0.0000, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    assert np.abs(found.matrix - printed).max() < 5.1e-5
    users = [item.users for item in found.classes]
    assert [round(each.value, 2) for each in users] == [0.88, 0.73, 0.93, 0.96]
    assert [round(each.half_width, 2) for each in users] == [0.07, 0.10, 0.04, 0.02]
    producers = [item.producers for item in found.classes]
    assert [round(each.value, 2) for each in producers] == [0.75, 0.85, 0.93, 0.96]
    assert [round(each.half_width, 2) for each in producers] == [0.21, 0.25, 0.03, 0.02]
    assert [each.error for each in producers] == pytest.approx(equation_7(), rel=1e-3)
    assert round(found.overall.value, 2) == 0.95
    assert round(found.overall.half_width, 2) == 0.02
    deforestation = found.classes[0].share.scaled(sum(PIXELS))
    assert round(deforestation.value) == 235_086  # equation 11
    assert deforestation.error == pytest.approx(34_907, rel=2e-3)
    hectares = [item.share.scaled(sum(PIXELS) * HECTARES) for item in found.classes]
    assert [each.value for each in hectares] == pytest.approx(
        [21_158, 11_686, 285_770, 581_386], abs=1
    )
    assert [each.half_width for each in hectares] == pytest.approx(
        [6_158, 3_756, 15_510, 16_282], rel=2e-3
    )


def equation_7():
    """Standard errors of producer's accuracies as Olofsson et al. write them, class by class."""
    n, mapped = np.array(COUNTS, float), np.array(PIXELS, float)
    rows = n.sum(axis=1)
    errors = []
    for j in range(4):
        within = n[:, j] / rows
        total = (mapped * within).sum()
        users, producers = within[j], mapped[j] * within[j] / total
        own = mapped[j] ** 2 * (1 - producers) ** 2 * users * (1 - users) / (rows[j] - 1)
        terms = mapped**2 * within * (1 - within) / (rows - 1)
        others = producers**2 * np.delete(terms, j).sum()
        errors.append(np.sqrt((own + others) / total**2))
    return errors


def stehman():
    """Stehman (2014), Table 2: 40 points from strata A to D; strata are not the classes."""
    truth = "AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"
    mapped = "AAAAAAABBB" + "ABBBBBBBBB" + "BBCCCCCCBB" + "DDDDDDDDDD"
    strata = "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10
    sizes = {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000}
    return Sample(*(np.array([*each], object) for each in (strata, mapped, truth)), sizes)


def test_stehman_2014():
    """Stehman (2014), section 4, pp. 4932-4935."""
    found = estimate(stehman())
    a, b, c, _ = found.classes
    assert a.share.value == pytest.approx(0.35)
    assert c.share.value == pytest.approx(0.20)
    assert found.overall.value == pytest.approx(0.63)
    assert round(b.users.value, 3) == 0.574
    assert round(b.producers.value, 3) == 0.794
    assert found.matrix[1, 2] == pytest.approx(0.08)
    assert round(a.share.error, 3) == 0.082
    assert round(c.share.error, 3) == 0.064
    assert round(found.overall.error, 3) == 0.085
    assert round(b.users.error, 3) == 0.125
    assert round(b.producers.error, 3) == 0.117
    assert found.matrix.sum() == pytest.approx(1)


def test_a_census_of_one_stratum_adds_no_uncertainty():
    """With the finite population, points that are the whole stratum are known."""
    mapped, truth = expand([[8, 2], [30, 60]], "ab")
    part = estimate(Sample(mapped, mapped, truth, {"a": 10, "b": 9000}))
    large = estimate(Sample(mapped, mapped, truth, {"a": 1000, "b": 9000}))
    assert math.isnan(part.classes[0].users.error)
    assert large.classes[0].users.error > 0


def test_the_intervals_hold_what_they_promise():
    """About 95 % of the intervals of many samples of a known map contain its accuracy."""
    rng = np.random.default_rng(4)
    truth = rng.choice(3, 6_000, p=[0.7, 0.2, 0.1])
    mapped = np.where(rng.random(6_000) < 0.8, truth, rng.choice(3, 6_000))
    names = np.array([*"abc"], object)
    sizes = {name: int((mapped == i).sum()) for i, name in enumerate("abc")}
    share = np.bincount(truth)[2] / len(truth)
    held = {"overall": 0, "share": 0}
    for _ in range(150):
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(mapped == i), 60, replace=False) for i in range(3)]
        )
        drawn = names[mapped[chosen]]
        found = estimate(Sample(drawn, drawn, names[truth[chosen]], sizes))
        held["overall"] += abs(found.overall.value - (mapped == truth).mean()) < (
            found.overall.half_width
        )
        held["share"] += abs(found.classes[2].share.value - share) < (
            found.classes[2].share.half_width
        )
    assert all(0.9 < count / 150 < 1 for count in held.values()), held


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([[9, 1], [0, 1]], "stratum b has 1 labeled points"),
        ([[9, 0], [0, 9]], "all 18 points are right"),
        ([[0, 9], [9, 0]], "all 18 points are wrong"),
    ],
)
def test_samples_that_tell_no_interval_are_refused(counts, says):
    mapped, truth = expand(counts, "ab")
    with pytest.raises(DataError, match=says) as error:
        estimate(Sample(mapped, mapped, truth, {"a": 900, "b": 900}))
    assert "\n" not in str(error.value)


def test_an_unknown_stratum_is_refused():
    mapped, truth = expand([[9, 1], [1, 9]], "ab")
    with pytest.raises(DataError, match="size of stratum b is not known"):
        estimate(Sample(mapped, mapped, truth, {"a": 900}))


def test_classes_whose_points_all_agree_get_no_interval():
    mapped, truth = expand([[9, 1], [0, 9]], "ab")
    found = estimate(Sample(mapped, mapped, truth, {"a": 900, "b": 900}))
    assert found.classes[1].users.value == 1
    assert math.isnan(found.classes[1].users.error)
    assert found.classes[1].users.as_dict()["ci95"] is None
    assert found.without_interval == ["a", "b"]


# -- Allocation ------------------------------------------------------------------------------------

SIZES = np.array(PIXELS)
EXPECTED = np.array([0.7, 0.6, 0.9, 0.95])


def test_the_size_of_olofsson_2014():
    """Olofsson et al. (2014), section 5.1.1, equation 13 with the values of Table 5: n = 641."""
    assert sample_size(SIZES, EXPECTED, 0.01) == 641


def test_allocations_with_a_minimum():
    """Olofsson et al. (2014), Table 6, "Alloc1": 75, 75, 165, 325 before rounding to fives."""
    found = allocate(SIZES, 640, "proportional", users_accuracy=EXPECTED, minimum=75)
    assert found.tolist() == [75, 75, 162, 328]


def test_neyman_gives_uncertain_strata_more():
    sizes, expected = np.array([5000, 5000]), np.array([0.5, 0.98])
    found = allocate(sizes, 100, "neyman", users_accuracy=expected, minimum=2)
    assert found.tolist() == [78, 22]  # 0.5 to 0.14


@pytest.mark.parametrize("how", ["proportional", "neyman", "equal"])
def test_allocations_keep_to_their_bounds(how):
    rng = np.random.default_rng(3)
    for _ in range(200):
        sizes = rng.integers(0, 10 ** rng.integers(1, 6, 6)) * (rng.random(6) < 0.8)
        minimum, count = int(rng.integers(0, 20)), int(rng.integers(120, 900))
        found = allocate(sizes, count, how, users_accuracy=rng.uniform(0.5, 1, 6), minimum=minimum)
        assert found.sum() == min(count, sizes.sum())
        assert (found >= np.minimum(sizes, minimum)).all()
        assert (found <= sizes).all()


def test_a_minimum_that_does_not_fit_is_refused():
    with pytest.raises(OptionError, match="--min-per-class 50 takes 200 points for 4 classes"):
        allocate(SIZES, 100, "equal", users_accuracy=EXPECTED, minimum=50)
