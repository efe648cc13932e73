"""A threshold that keeps the risk among the accepted below a level."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from probcl.evaluation import fit_abstention

# P(error | certainty u), and the mean of it from a threshold on, for u uniform.
RISKS = {
    "falling": (lambda u: 0.5 * (1 - u), lambda t: 0.25 * (1 - t)),
    "constant, at the level": (lambda u: 0.1 + 0 * u, lambda t: 0.1001),
    "rising": (lambda u: 0.2 * u, lambda t: 0.1 * (1 + t)),
    "most certain are wrong": (
        lambda u: 0.02 + 0.5 * (u > 0.9),
        lambda t: 0.02 + 0.05 / (1 - min(t, 0.9)),
    ),
}


@pytest.mark.parametrize("kind", RISKS)
def test_the_risk_is_above_the_level_no_oftener_than_agreed(kind):
    error, risk_from = RISKS[kind]
    rng = np.random.default_rng(0)
    above = reached = 0
    for _ in range(200):
        u = rng.random(1200)
        try:
            rule = fit_abstention(u, rng.random(1200) < error(u), risk=0.1, confidence=0.9)
        except ValueError:
            continue
        reached += 1
        above += risk_from(max(rule.threshold, 0)) > 0.1
    assert above <= 30  # of 200 with probability .1 each, 30 is the 99th percentile
    if kind == "falling":
        assert reached > 150


def test_more_items_come_closer_to_the_best_threshold():
    rng = np.random.default_rng(1)
    u = rng.random(40_000)
    rule = fit_abstention(u, rng.random(len(u)) < 0.5 * (1 - u), risk=0.1)
    assert rule.threshold == pytest.approx(0.6, abs=0.03)
    assert rule.coverage == pytest.approx(0.4, abs=0.03)


def test_all_are_accepted_where_all_are_right():
    rule = fit_abstention(torch.rand(100), torch.zeros(100), risk=0.1)
    assert rule.threshold == -np.inf and rule.coverage == 1
    assert rule.bound == pytest.approx(1 - 0.1 ** (1 / 75))  # none wrong of those that test
    assert rule([-5.0, 0.0]).all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=80),
    st.floats(0.05, 0.9),
)
def test_the_bound_is_that_of_clopper_and_pearson_and_below_the_level(items, risk):
    """Certainties that are often equal, against a count of each threshold by hand."""
    u, wrong = (np.array(part, float) for part in zip(*items, strict=True))
    order = torch.randperm(len(u), generator=torch.Generator().manual_seed(0)).numpy()
    test = order[max(1, len(u) // 4) :]
    try:
        rule = fit_abstention(u, wrong, risk, 0.8)
    except ValueError:
        return
    assert rule.bound <= risk
    accepted = u[test] >= rule.threshold
    errors, count = wrong[test][accepted].sum(), accepted.sum()
    assert rule.coverage == pytest.approx(count / len(test))
    assert rule.bound == pytest.approx(beta.ppf(0.8, errors + 1, count - errors), rel=1e-9)


def test_the_smallest_risk_that_is_named_can_be_reached():
    rng = np.random.default_rng(2)
    u = rng.random(200)
    wrong = rng.random(200) < 0.3
    with pytest.raises(ValueError, match="risk must be at least") as error:
        fit_abstention(u, wrong, risk=0.01)
    least = float(str(error.value).split("at least ")[1].split()[0])
    assert fit_abstention(u, wrong, risk=least).bound <= least
    with pytest.raises(ValueError, match="risk must be at least"):
        fit_abstention(u, wrong, risk=least - 2e-4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([0.1, 0.2], [0, 0], 0.0), "risk must be above 0 and below 1, got 0.0"),
        (([0.1, 0.2], [0, 0], 0.1, 1.0), "confidence must be above 0 and below 1, got 1.0"),
        (([0.1, 0.2], [0]), "error must have a row for each of the 2 items, got 1"),
        (([0.1, 0.2], [0, 3]), "error must hold only true and false"),
        (([0.1], [0]), "certainty must have at least 2 rows"),
        (([0.1, np.nan], [0, 0]), "certainty must be finite, row 1 is not"),
        (([0.1, 0.2], [1, 1]), "risk must be at least 1 to be shown"),
    ],
)
def test_bad_input_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        fit_abstention(*arguments)
