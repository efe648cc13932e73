"""The posterior as a scikit-learn estimator."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probcl.programs import PosteriorEmbedder, fit_posterior


@parametrize_with_checks([PosteriorEmbedder(steps=1, hidden=4)])
def test_it_is_an_estimator_as_scikit_learn_defines_one(estimator, check):
    check(estimator)


def clusters(count=120, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    return np.eye(6)[y] + 0.3 * rng.normal(size=(count, 6)), y


def test_it_says_what_the_posterior_of_the_arrays_says():
    x, y = clusters()
    embedder = PosteriorEmbedder(steps=30, random_state=np.random.RandomState(7)).fit(x, y)
    seed = np.random.RandomState(7).randint(2**31 - 1)
    posterior = fit_posterior(x, y, steps=30, seed=seed)
    expected = posterior.gate(x) * posterior(x).mean_resultant_length
    np.testing.assert_allclose(embedder.score_samples(x), expected.detach(), rtol=1e-3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.transform(x), unit, rtol=1e-12)


def test_it_is_surer_of_items_in_a_class_than_between_two():
    x, y = clusters(200)
    embedder = PosteriorEmbedder(steps=60).fit(x, y)
    inside, between = np.eye(6)[:3], np.eye(6)[:3] + np.eye(6)[[1, 2, 0]]
    assert embedder.score_samples(inside).min() > embedder.score_samples(between).max()
    assert embedder.score_samples(10 * inside).max() < 1e-3  # the gate sees their length


def test_classes_may_have_any_names():
    x, y = clusters()
    names = np.array(["ant", "bee", "cat"])[y]
    scores = [PosteriorEmbedder(steps=3).fit(x, y).score_samples(x) for y in (y, names, y - 7)]
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()


@pytest.mark.parametrize("nothing", ["continuous", "one"])
def test_what_is_no_class_is_left_out(nothing):
    x, y = clusters()
    given = y + 0.5 * x[:, 0] if nothing == "continuous" else np.full(len(y), "one")
    one, two = (PosteriorEmbedder(steps=3).fit(x, y) for y in (given, None))
    assert one.posterior_.fit.likelihood == "neighbours"
    assert (one.score_samples(x) == two.score_samples(x)).all()


def test_zero_embeddings_stay_zero_and_say_nothing():
    x, y = clusters()
    some = PosteriorEmbedder(steps=3).fit(x, y)
    padded = np.concatenate([np.zeros((2, 6)), x])
    every = PosteriorEmbedder(steps=3).fit(padded, np.append([2, 2], y))
    assert (every.score_samples(padded) == np.append([0, 0], some.score_samples(x))).all()
    assert (every.transform(padded)[:2] == 0).all()
    assert (every.score_samples(np.zeros((1, 6))) == 0).all()


def test_it_stands_in_a_pipeline():
    x, y = clusters()
    pipeline = make_pipeline(StandardScaler(), PosteriorEmbedder(steps=3)).fit(x, y)
    assert pipeline.transform(x).shape == x.shape
    assert pipeline.score_samples(x).shape == (len(x),)
    assert list(clone(pipeline).fit(x).get_feature_names_out()) == [f"x{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"likelihood": "match"}, "y must hold two classes at least"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused_when_it_is_fitted(settings, error):
    with pytest.raises(ValueError, match=error):
        PosteriorEmbedder(**settings).fit(clusters()[0])


def test_numbers_of_which_no_two_are_alike_are_no_classes():
    fitted = PosteriorEmbedder(steps=2).fit(np.random.default_rng(0).normal(size=(60, 4)),
                                            np.arange(60))  # fmt: skip
    assert fitted.posterior_.fit.likelihood == "neighbours"
