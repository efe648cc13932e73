"""Posteriors for a frozen network: what is known of their concentration, and what stays."""

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn

from probcl.infer import ContrastiveELBO
from probcl.nn import ConvNet
from probcl.programs import PostHoc, SimCLR, fit_posterior
from probcl.special import inverse_bessel_ratio
from probcl.sphere import normalize

DIM = 8


def noisy_directions(count=600, seed=0):
    """Images that are their own embedding: one of five directions with noise of its own strength.

    The strength can be seen in the last pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(5, DIM - 1, generator=generator))
    noise = 0.05 + 0.4 * torch.rand(count, generator=generator)
    error = torch.randn(count, DIM - 1, generator=generator)
    z = normalize(centres[torch.arange(count) % 5] + noise[:, None] * error)
    return torch.cat([z, noise[:, None]], -1).view(count, 1, 2, 4), noise


class Drop(nn.Module):
    """Leave out the feature that is no part of the embedding."""

    def forward(self, features):
        return features[:, :-1]


@pytest.mark.parametrize(
    ("likelihood", "least"),
    # The nearest of many are near whatever the noise: they tell less than other views do.
    [("neighbours", 0.5), ("views", 0.8), ("expected_likelihood", 0.8)],
)
def test_the_concentration_ranks_images_by_their_noise(likelihood, least):
    images, noise = noisy_directions()

    def views(batch):
        error = torch.randn(len(batch), 1, 2, 4) * batch.flatten(1)[:, -1, None, None, None]
        error.view(len(batch), -1)[:, -1] = 0
        return batch + error

    program = fit_posterior(
        nn.Flatten(), images, Drop(), likelihood, neighbours=30, views=views, steps=250
    )
    new, noise = noisy_directions(300, seed=1)
    concentration = program(new).concentration
    assert spearmanr(concentration.detach(), -noise).statistic > least


def test_a_constant_concentration_is_the_moment_estimate():
    """Images whose features say nothing of their noise: A_d(kappa) is the mean cosine."""
    z = normalize(torch.randn(400, DIM))
    shared = nn.Sequential(nn.Flatten(), nn.Linear(DIM, 1, bias=False))
    nn.init.zeros_(shared[1].weight)

    class Both(nn.Module):
        def forward(self, images):
            return images.flatten(1)

    program = fit_posterior(Both(), z.view(400, 1, 2, 4), neighbours=399, steps=150)
    concentration = program(z.view(400, 1, 2, 4)).concentration
    cosine = ((z @ z.T).sum() - 400) / (400 * 399)
    expected = inverse_bessel_ratio(cosine.clamp_min(1e-3), DIM)
    assert concentration.mean().item() == pytest.approx(expected.item(), abs=0.35)


def test_the_network_and_its_embedding_stay_as_they_are():
    encoder = nn.Sequential(ConvNet((4, 8)), nn.BatchNorm1d(8))
    point = SimCLR(encoder, nn.Linear(8, 5))
    images = torch.rand(60, 1, 8, 8)
    point.materialize(images)
    point.train()
    encoder(images)  # statistics unlike those of the start
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    program = fit_posterior(encoder, images, point.posterior_head.projection, steps=3)
    assert torch.equal(state, torch.get_rng_state())
    program.train()
    posterior = program(images)
    point.eval()
    features = encoder(images)
    projection = point.posterior_head.projection(features)
    assert torch.equal(posterior.loc, normalize(projection))
    # What is measured of the embedding is measured of the projection, and not of the features.
    assert torch.equal(program.project(features), projection)
    assert not torch.allclose(projection.norm(dim=-1), features.norm(dim=-1), rtol=0.01)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
    trained = {name for name, p in program.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("posterior_head.log_concentration.") for name in trained)


def test_the_same_seed_gives_the_same_head():
    images, _ = noisy_directions(80)
    one, same, other = (
        fit_posterior(nn.Flatten(), images, steps=5, seed=seed)(images).concentration
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("projected", [False, True])
def test_what_was_fitted_is_saved_and_comes_back_bit_for_bit(tmp_path, projected):
    images = torch.rand(40, 1, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    projection = nn.Linear(6, DIM) if projected else None
    program = fit_posterior(network, images, projection, steps=3, hidden=7)
    program.save_pretrained(tmp_path / "head")
    again = PostHoc.from_pretrained(tmp_path / "head", network, projection)
    one, two = program(images), again(images)
    assert torch.equal(one.loc, two.loc)
    assert torch.equal(one.concentration, two.concentration)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_head_of_another_network_is_refused(tmp_path):
    images = torch.rand(40, 1, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    fit_posterior(network, images, steps=1).save_pretrained(tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    with pytest.raises(ValueError, match="other weights than the one that"):
        PostHoc.from_pretrained(tmp_path, other)
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        PostHoc.from_pretrained(tmp_path / "nowhere", network)
    path = tmp_path / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is not as it was written"):
        PostHoc.from_pretrained(tmp_path, network)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no head that fit_posterior fitted"):
        PostHoc.from_pretrained(tmp_path, network)


def test_batches_and_bytes_are_taken_too():
    images, labels = torch.randint(0, 256, (40, 1, 2, 4), dtype=torch.uint8), torch.arange(40)
    batches = [(images[:25], labels[:25]), (images[25:], labels[25:])]
    from_batches = fit_posterior(nn.Flatten(), batches, neighbours=5, steps=3)
    whole = fit_posterior(nn.Flatten(), images.float() / 255, neighbours=5, steps=3)
    pixels = images.float() / 255
    torch.testing.assert_close(from_batches(pixels).concentration, whole(pixels).concentration)


def test_as_a_program_it_has_the_likelihood_of_the_next_view():
    images, _ = noisy_directions(60)
    program = fit_posterior(nn.Flatten(), images, neighbours=5, steps=3)
    views = torch.stack([images[:20], images[20:40]])
    loss = ContrastiveELBO()(program.model, program.guide)(views)
    posteriors = [program(view) for view in views]
    expected = (
        -(
            posteriors[0].log_prob(posteriors[1].loc).mean()
            + posteriors[1].log_prob(posteriors[0].loc).mean()
        )
        / 2
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "none"}, "likelihood must be 'neighbours' or 'views'"),
        ({"likelihood": "views"}, "views is needed"),
        ({"neighbours": 30}, "neighbours must be from 1 to 29"),
        ({"encoder": nn.Identity()}, r"features of shape \(N, F\), got \(30, 1, 2, 4\)"),
        ({"images": torch.full((30, 1, 2, 4), torch.nan)}, "those of image 0 are not"),
        ({"images": []}, "one batch at least"),
    ],
)
def test_bad_input(options, message):
    given = {"encoder": nn.Flatten(), "images": noisy_directions(30)[0], "steps": 1} | options
    with pytest.raises(ValueError, match=message):
        fit_posterior(**given)
