"""Posteriors for ArviZ: what is in each group, and that ArviZ takes it, in either version."""

import warnings

import numpy as np
import pytest
import torch

from probcl.arviz import to_arviz
from probcl.distributions import ProjectedNormal, VonMisesFisher
from probcl.sphere import normalize

# What ArviZ and its libraries warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

LABELS = torch.tensor([1, 0, 2])
SCORES = {"entropy": torch.tensor([0.5, 0.1, 0.9])}


def classify(z):
    return torch.stack([z[..., 0], z[..., 1], z[..., 2]], -1).mul(5).softmax(-1)


@pytest.fixture(scope="module")
def posterior():
    torch.manual_seed(0)
    return VonMisesFisher(normalize(torch.randn(3, 4)), torch.tensor([5.0, 50.0, 500.0]))


@pytest.fixture(scope="module")
def data(posterior):
    return to_arviz(
        posterior, labels=LABELS, index=torch.tensor([7, 8, 9]), scores=SCORES, classify=classify
    )


def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz


def test_groups_have_their_dimensions_and_names(data):
    embedding = data["posterior"]["embedding"]
    assert dict(embedding.sizes) == {"chain": 4, "draw": 250, "item": 3, "dim": 4}
    assert embedding["item"].values.tolist() == [7, 8, 9]
    assert data["sample_stats"]["lp"].dims == ("chain", "draw", "item")
    probability = data["posterior_predictive"]["probability"]
    assert probability.dims == ("chain", "draw", "item", "class")
    assert data["observed_data"]["label"].values.tolist() == LABELS.tolist()
    np.testing.assert_allclose(data["constant_data"]["entropy"], SCORES["entropy"])


def test_draws_are_of_the_posterior(data, posterior):
    draws = data["posterior"]["embedding"].values
    np.testing.assert_allclose(np.linalg.norm(draws, axis=-1), 1, atol=1e-5)
    error = draws.mean((0, 1)) - posterior.mean.numpy()
    assert np.abs(error).max() < 0.06
    z = torch.as_tensor(draws)
    np.testing.assert_allclose(
        data["sample_stats"]["lp"].values, posterior.log_prob(z), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        data["posterior_predictive"]["probability"].values, classify(z), rtol=1e-5
    )


def test_arviz_summarises_and_draws(data):
    summary = arviz().summary(data, var_names=["embedding"], round_to="none")
    assert len(summary) == 3 * 4
    assert (summary["r_hat"].astype(float) - 1).abs().max() < 0.02
    import matplotlib.pyplot as plt

    arviz().plot_forest(data, var_names=["embedding"])
    plt.close("all")


def test_it_is_saved_and_read_again(data, tmp_path):
    data.to_netcdf(str(tmp_path / "posterior.nc"))
    again = arviz().from_netcdf(str(tmp_path / "posterior.nc"))
    np.testing.assert_array_equal(
        again["posterior"]["embedding"].values, data["posterior"]["embedding"].values
    )


def test_the_seed_decides_and_the_random_state_is_left_alone(posterior):
    state = torch.get_rng_state()
    one, same, other = (to_arviz(posterior, draws=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    values = [d["posterior"]["embedding"].values for d in (one, same, other)]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_only_what_is_given_is_there():
    data = to_arviz(ProjectedNormal(torch.randn(2, 3), torch.ones(2, 3)), draws=2, chains=1)
    assert data["posterior"]["embedding"].shape == (1, 2, 2, 3)
    groups = data.groups() if callable(data.groups) else [g.strip("/") for g in data.groups]
    assert {"posterior", "sample_stats"} == {g for g in groups if g}


def test_items_may_have_names(posterior):
    data = to_arviz(posterior, index=["a", "b", "c"])
    assert data["posterior"]["item"].values.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.arange(2)}, r"labels must have shape \(3,\)"),
        ({"index": torch.arange(4)}, r"index must have shape \(3,\)"),
        ({"scores": {"a": torch.zeros(3, 1)}}, r"scores\['a'\] must have shape \(3,\)"),
        *(
            ({"scores": {name: torch.zeros(3)}}, rf"scores can't have the name {name!r}.*rename")
            for name in ("chain", "draw", "item", "dim", "class", "", "a/b", 3)
        ),
        ({"draws": 0}, "draws must be at least 1"),
        ({"chains": 0}, "chains must be at least 1"),
        ({"posterior": VonMisesFisher(torch.eye(3)[0], 1.0)}, r"batch shape \(N,\)"),
    ],
)
def test_bad_input(posterior, options, message):
    with pytest.raises(ValueError, match=message):
        to_arviz(**({"posterior": posterior} | options))


def test_a_score_may_have_the_name_of_what_is_drawn(posterior, tmp_path):
    scores = {"embedding": torch.arange(3.0), "lp": torch.ones(3)}
    scores |= {"probability": torch.ones(3), "label": torch.zeros(3)}
    made = to_arviz(posterior, scores=scores, labels=LABELS, classify=classify, draws=2)
    made.to_netcdf(str(tmp_path / "posterior.nc"))
    for data in (made, arviz().from_netcdf(str(tmp_path / "posterior.nc"))):
        check_dimensions(data)


def check_dimensions(data):
    probability = data["posterior_predictive"]["probability"]
    assert probability.dims == ("chain", "draw", "item", "class")
    assert data["observed_data"]["label"].values.tolist() == LABELS.tolist()
    assert {array.dims for array in data["constant_data"].data_vars.values()} == {("item",)}
    assert data["posterior"]["embedding"].dims == ("chain", "draw", "item", "dim")
    assert data["sample_stats"]["lp"].dims == ("chain", "draw", "item")
    assert data["constant_data"]["embedding"].values.tolist() == [0, 1, 2]


def test_scores_in_half_precision_are_taken(posterior):
    tree = to_arviz(posterior, scores={"entropy": torch.tensor([0.5, 0.25, 1]).bfloat16()})
    assert tree is not None
