"""Posteriors for embeddings that are there already: what is known of them, and what stays."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import binary_cross_entropy

from probcl.arviz import to_arviz
from probcl.evaluation import Embeddings, evaluate, event_calibration_error, nearest
from probcl.infer import ContrastiveELBO
from probcl.nn import ConvNet
from probcl.programs import PostHoc, SimCLR, fit_posterior
from probcl.programs.events import Events, mean_loss
from probcl.programs.reading import with_labels
from probcl.special import inverse_bessel_ratio
from probcl.sphere import normalize
from probcl.training.batch import Batch
from probcl.training.evaluation import embed, encode

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


def classes(count=1500, seed=0, spread=0.45):
    """Embeddings of four classes that overlap, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    return torch.eye(DIM)[y] + spread * torch.randn(count, DIM, generator=generator), y


class Drop(nn.Module):
    """Leave out the feature that is no part of the embedding."""

    def forward(self, features):
        return features[:, :-1]


@pytest.fixture(scope="module")
def matched():
    return fit_posterior(*classes(), steps=200)


def test_the_match_probability_is_calibrated_on_new_items(matched):
    z, y = classes(800, seed=1)
    bank = matched.posterior_head.bank
    near = nearest(normalize(z), bank.embedding, 5)
    with torch.no_grad():
        found = matched.neighbour_match(z).probability
        whole = matched.match_probability(z, bank.embedding).gather(1, near.row)
    truth = bank.labels[near.row] == y[:, None]
    constant = truth.double().mean()
    entropy = -(constant * constant.log() + (1 - constant) * (1 - constant).log())
    for p in (found, whole):
        assert event_calibration_error(p.flatten(), truth.flatten()) < 0.05
        loss = binary_cross_entropy(p.double(), truth.double())
        assert loss < 0.93 * entropy


def test_items_keep_their_rows(matched):
    z, _ = classes(30, seed=2)
    assert matched.embed(Embeddings(z, rows=range(8, 38))).rows.tolist() == [*range(8, 38)]


def test_the_entropy_says_whose_neighbour_is_of_another_class(matched):
    train, new = matched.embed(*classes()), matched.embed(*classes(800, seed=1))
    numbers = evaluate(train, None, new, None, metrics=[], scores=["entropy", "nearest_cosine"])
    assert numbers.metrics["unc/retrieval_error/entropy"] > 0.75
    found, plain = (
        numbers.metrics[f"unc/retrieval_error/{name}"] for name in ("entropy", "nearest_cosine")
    )
    assert found > plain


def test_the_match_probability_is_that_of_the_formula(matched):
    z, _ = classes(30, seed=2)
    q, head = matched(z), matched.posterior_head
    length, cosine = q.mean_resultant_length, q.loc @ q.loc[:7].T
    link = torch.sigmoid(head.link.shift + head.link.log_slope.exp() * cosine)
    expected = length[:, None] * length[:7] * link
    torch.testing.assert_close(matched.match_probability(z, z[:7]), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(matched.match_probability(q, matched(z[:7])), expected)


def test_the_nearest_of_the_bank_match_with_the_probability_of_the_formula(matched):
    z, _ = classes(100, seed=2)
    bank = matched.posterior_head.bank
    for k in (1, 5, 50):
        p, row = matched.neighbour_match(z, k)
        near = nearest(normalize(z), bank.embedding, k)
        assert torch.equal(row, near.row)
        # The bank's own lengths are by probes that did not see the item.
        length = matched(z).mean_resultant_length[:, None] * bank.length[row]
        expected = length * matched.posterior_head.link(near.cosine)
        torch.testing.assert_close(p, expected, atol=1e-5, rtol=1e-4)
    rows = matched.neighbour_match(bank.embedding[:20], 3).row
    assert not (rows == torch.arange(20)[:, None]).any()  # an item is not its own neighbour
    for k in (0, 51):
        with pytest.raises(ValueError, match=f"k must be from 1 to 50, .* got {k}"):
            matched.neighbour_match(z, k)
    with pytest.raises(ValueError, match="match probabilities need matches for the likelihood"):
        fit_posterior(z, steps=1).neighbour_match(z)


def test_the_loss_is_the_binary_cross_entropy_of_the_matches(matched):
    head, (z, _) = matched.posterior_head, classes(40, seed=3)
    seen = head.bank.see(z, normalize(z))
    row, cosine = seen.neighbours.row[:, :5], seen.neighbours.cosine[:, :5]
    truth = (torch.rand(40, 5) < 0.5).float()
    others = {name: x.repeat(40, 1)[: len(head.bank)] for name, x in seen.inputs.items()}
    towards = head.bank.embedding
    events = Events(head, seen.inputs, normalize(z), row, cosine, truth, others, towards, head)
    with torch.no_grad():
        own, all_others = head.resultant_length(seen.inputs), head.resultant_length(others)
        p = own[:, None] * all_others[row] * head.link(cosine)
    assert mean_loss(events) == pytest.approx(binary_cross_entropy(p, truth).item(), rel=1e-5)


def test_the_banks_own_items_are_seen_without_themselves(matched):
    bank = matched.posterior_head.bank
    own = torch.arange(20)
    found, told = bank.nearest(bank.embedding[:20]), bank.nearest(bank.embedding[:20], own)
    cosines = bank.embedding[:20] @ bank.embedding.T
    cosines[own, own] = -1
    for each in (found, told):
        assert torch.equal(each.row, cosines.topk(each.row.shape[1]).indices)


def test_of_equal_items_one_is_taken_for_itself():
    z, y = classes(60)
    z[1], y[1] = z[0], y[0]
    held = classes(60, seed=1)
    bank = fit_posterior(z, y, held_out=held, steps=1).posterior_head.bank
    near = bank.nearest(bank.embedding[:1])
    assert near.row[0, 0] in (0, 1)
    assert near.cosine[0, 1] < 1 - 1e-4


def test_the_gate_closes_on_what_is_unlike_the_items(matched):
    z, _ = classes(300, seed=4)
    usual, far = matched.gate(z), matched.gate(8 - 9 * z)
    assert usual.median() > 0.95
    assert far.max() < 0.1
    assert 0 <= far.min() <= usual.max() <= 1


def test_the_evaluation_asks_the_gate_and_the_gated_length_every_question(matched):
    (z, y), (far, _) = classes(300, seed=4), classes(200, seed=6)
    known, new = matched.embed(z[:200], y[:200]), matched.embed(z[200:], y[200:])
    assert torch.equal(new.gate.float(), matched.gate(z[200:]))
    outside = {"far": matched.embed(8 - 9 * far)}
    severe = {"noise": {s: matched.embed(z[200:] + s * far[:100], y[200:]) for s in (1, 2)}}
    names = ["gate", "gated_resultant_length", "entropy"]
    answers = evaluate(
        known, None, new, None, out_of_distribution=outside, corrupted=severe, scores=names,
        metrics=[],
    ).answers  # fmt: skip
    asked = {"retrieval_error", "ambiguity", "out_of_distribution", "corruption"}
    assert all(answers[name].keys() == asked for name in names)
    for name in names[:2]:
        assert answers[name]["out_of_distribution"].value > 0.95
    order = matched.embed(z[200:].flip(0), y[200:].flip(0))
    order._rows = torch.arange(100).flip(0)
    assert torch.equal(order.sorted().gate, new.gate)
    assert torch.equal(Embeddings.concatenate([known, new]).gate, matched.gate(z).double())


def test_a_posterior_of_arrays_comes_back_bit_for_bit(matched, tmp_path):
    matched.save_pretrained(tmp_path)
    again = PostHoc.from_pretrained(tmp_path)
    z, _ = classes(50, seed=5)
    one, two = matched(z), again(z)
    assert torch.equal(one.loc, two.loc)
    assert torch.equal(one.concentration, two.concentration)
    assert torch.equal(matched.gate(z), again.gate(z))
    assert torch.equal(matched.match_probability(z, z), again.match_probability(z, z))
    assert again.fit == matched.fit


def test_features_stand_beside_the_embedding(tmp_path):
    z, y = classes(300)
    features = torch.cat([z, torch.randn(300, 3)], -1)
    posterior = fit_posterior(z.numpy(), y.numpy(), features=features.numpy(), steps=3)
    items = Embeddings(z, features=features)
    assert posterior(items).batch_shape == (300,)
    torch.testing.assert_close(posterior(items).loc, normalize(z))
    posterior.save_pretrained(tmp_path)
    again = PostHoc.from_pretrained(tmp_path)(items)
    assert torch.equal(posterior(items).concentration, again.concentration)
    with pytest.raises(ValueError, match="must have 11 features beside them"):
        posterior(z)


def test_posteriors_go_to_arviz(matched):
    z, _ = classes(3, seed=6)
    draws = to_arviz(matched(z), draws=5, chains=2)
    assert draws.posterior["embedding"].shape == (2, 5, 3, DIM)


def test_as_a_pyro_model_it_observes_matches_and_svi_learns_it():
    posterior = fit_posterior(*classes(300), steps=1)
    z, y = classes(40, seed=1)
    views = torch.stack([z[:20], z[20:]])
    labels = y[:20]
    trace = poutine.trace(posterior.model).get_trace(views, labels)
    trace.compute_log_prob()
    bank = posterior.posterior_head.bank
    rows = bank.nearest(normalize(z)).row[:, :5]
    assert torch.equal(
        trace.nodes["match"]["value"], (bank.labels[rows] == labels.repeat(2)[:, None]).float()
    )
    pyro.clear_param_store()
    optim = pyro.optim.Adam({"lr": 0.01})
    svi = SVI(posterior.model, posterior.guide, optim, Trace_ELBO())
    losses = [svi.step(views, labels) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_few_labels_are_enough_and_the_fit_says_so():
    z, y = classes(800)
    known = torch.where(torch.arange(800) < 60, y, -1)
    posterior = fit_posterior(z, known, steps=50)
    assert posterior.fit.labelled == 60
    assert posterior.fit.predicted == 740
    assert "60 of the classes were given" in str(posterior.fit)
    most = torch.where(torch.arange(800) < 780, y, -1)
    assert "780 of the classes were given" in str(fit_posterior(z, most, steps=1).fit)
    labels = posterior.posterior_head.bank.labels
    near = nearest(normalize(z), posterior.posterior_head.bank.embedding)
    same = near.cosine[:, 0] > 1 - 1e-6
    # In the bank, the classes that were given stay.
    given = same & (known >= 0)
    assert given.sum() > 40
    assert torch.equal(labels[near.row[given, 0]], y[given])


def test_an_embedding_that_memorises_its_items_is_fitted_on_those_held_out():
    y = torch.arange(400) % 4
    z = torch.eye(DIM)[y] + 0.05 * torch.randn(400, DIM)  # as no new item is
    held = classes(400, seed=1, spread=1.0)
    with pytest.warns(UserWarning, match="the embedding memorises its items"):
        posterior = fit_posterior(z, y, held_out=held, steps=30)
    assert posterior.fit.fitted_to == "held-out items"
    assert posterior.fit.own_recall > 0.95 > posterior.fit.held_out_recall + 0.1
    assert "memorises" in str(posterior.fit)
    with torch.no_grad():
        new = posterior(classes(400, seed=2, spread=1.0)[0])
    assert new.mean_resultant_length.mean() < 0.95


def test_pairs_match_their_partners_and_those_that_look_alike_are_less_certain():
    generator = torch.Generator().manual_seed(0)
    centre = normalize(torch.randn(780, 12, generator=generator))
    crowded = torch.arange(1500) >= 750  # in groups of 25
    group = torch.where(crowded, 750 + torch.arange(1500) % 30, torch.arange(1500) % 750)
    order = torch.randperm(1500, generator=generator)
    z, crowded = centre[group][order], crowded[order]
    image, text = (z + 0.1 * torch.randn(1500, 12, generator=generator) for _ in range(2))
    one, two = fit_posterior(image[:1200], pairs=text[:1200], steps=200)
    crowded = crowded[1200:]
    with torch.no_grad():
        q, r = one(image[1200:]), two(text[1200:])
        p, back = one.match_probability(q, r), two.match_probability(r, q)
    torch.testing.assert_close(p, back.T)
    own = p.diagonal()
    assert own[~crowded].mean() > 0.5 > 0.3 > own[crowded].mean()
    assert p[~torch.eye(300, dtype=torch.bool)].mean() < 0.05
    for posterior in (q, r):
        length = posterior.mean_resultant_length
        assert length[~crowded].mean() > length[crowded].mean() + 0.2


@pytest.mark.parametrize(
    ("likelihood", "least"),
    # The nearest of many are near whatever the noise: they tell less than other views do.
    [("neighbours", 0.5), ("views", 0.8)],
)
def test_the_concentration_ranks_images_by_their_noise(likelihood, least):
    images, noise = noisy_directions()

    def views(batch):
        error = torch.randn(len(batch), 1, 2, 4) * batch.flatten(1)[:, -1, None, None, None]
        error.view(len(batch), -1)[:, -1] = 0
        return batch + error

    program = fit_posterior(
        images, encoder=nn.Flatten(), projection=Drop(), likelihood=likelihood,
        neighbours=30, views=views if likelihood == "views" else None, steps=100,
    )  # fmt: skip
    new, noise = noisy_directions(300, seed=1)
    concentration = program(new).concentration
    assert spearmanr(concentration.detach(), -noise).statistic > least


def test_a_constant_concentration_is_the_moment_estimate():
    """Embeddings that are everywhere alike: A_d(kappa) is the mean cosine of the neighbours."""
    z = normalize(torch.randn(800, DIM))
    program = fit_posterior(z, neighbours=20, steps=150)
    bank = program.posterior_head.bank
    cosine = bank.nearest(bank.embedding).cosine[:, :20].mean()
    expected = inverse_bessel_ratio(cosine, DIM).log()
    found = program(bank.embedding).concentration.log().mean()
    assert found.item() == pytest.approx(expected.item(), abs=0.1)


def test_a_trainer_evaluates_the_gate_too():
    z, y = classes(300)
    program = fit_posterior(z.view(-1, 1, 2, 4), y, encoder=nn.Flatten(), steps=2)
    batches = [
        encode(program, Batch(z[rows].view(1, -1, 1, 2, 4), y[rows], rows))
        for rows in torch.arange(300).flip(0).split(128)
    ]
    found = embed(program, batches, torch.device("cpu"))
    torch.testing.assert_close(found.gate, program.gate(z.view(-1, 1, 2, 4)).double())
    point = SimCLR(nn.Flatten(), nn.Linear(8, 5))
    assert embed(point, batches, torch.device("cpu")).gate is None


def test_the_network_and_its_embedding_stay_as_they_are():
    encoder = nn.Sequential(ConvNet((4, 8)), nn.BatchNorm1d(8))
    point = SimCLR(encoder, nn.Linear(8, 5))
    images = torch.rand(60, 1, 8, 8)
    point.materialize(images)
    point.train()
    encoder(images)  # statistics unlike those of the start
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    projection = point.posterior_head.projection
    program = fit_posterior(images, encoder=encoder, projection=projection, steps=3)
    assert torch.equal(state, torch.get_rng_state())
    program.train()
    posterior = program(images)
    point.eval()
    features = encoder(images)
    projected = projection(features)
    assert torch.equal(posterior.loc, normalize(projected))
    # What is measured of the embedding is measured of the projection, and not of the features.
    assert torch.equal(program.project(features), projected)
    assert not torch.allclose(projected.norm(dim=-1), features.norm(dim=-1), rtol=0.01)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
    trained = {name for name, p in program.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("posterior_head.perceptron.") for name in trained)


def test_labels_may_come_with_the_embeddings():
    z, y = classes(100)
    one, two = (fit_posterior(*given, steps=2) for given in ((z, y), (Embeddings(z, y),)))
    assert two.fit == one.fit
    assert fit_posterior(Embeddings(z, y), likelihood="neighbours", steps=2).fit.labelled == 0


def test_views_of_the_user_stay_as_they_are():
    z, y = classes(100)
    view = Embeddings(z + 0.1)
    fit_posterior(z, y, held_out=classes(60, seed=1), views=[view], steps=1)
    assert view.labels is None


def test_the_same_seed_gives_the_same_head():
    z, y = classes(100)
    one, same, other = (
        fit_posterior(z, y, steps=5, seed=seed)(z).concentration for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("projected", [False, True])
def test_what_was_fitted_to_a_network_comes_back_bit_for_bit(tmp_path, projected):
    images = torch.rand(40, 1, 8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    projection = nn.Linear(6, DIM) if projected else None
    program = fit_posterior(images, encoder=network, projection=projection, steps=3, hidden=7)
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
    fit_posterior(images, encoder=network, steps=1).save_pretrained(tmp_path)
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
    with pytest.raises(ValueError, match="holds no posterior of fit_posterior"):
        PostHoc.from_pretrained(tmp_path, network)


def test_batches_and_bytes_are_taken_too():
    images, labels = torch.randint(0, 256, (40, 1, 2, 4), dtype=torch.uint8), torch.arange(40)
    batches = [(images[:25], labels[:25]), (images[25:], labels[25:])]
    pixels = images.float() / 255
    from_batches, whole = (
        fit_posterior(given, encoder=nn.Flatten(), steps=3) for given in (batches, pixels)
    )
    torch.testing.assert_close(from_batches(pixels).concentration, whole(pixels).concentration)


def test_as_a_program_without_labels_it_has_the_likelihood_of_the_next_view():
    images, _ = noisy_directions(60)
    program = fit_posterior(images, encoder=nn.Flatten(), steps=3)
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


Z, Y = classes(60)
NAN, ZERO = Z.clone(), Z.clone()
NAN[3, 1], ZERO[4] = torch.nan, 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "none"}, "likelihood must be 'match'"),
        ({"likelihood": "views"}, "views is needed for likelihood='views'"),
        ({"likelihood": "match", "labels": None}, "labels is needed for likelihood='match'"),
        ({"neighbours": 0}, "neighbours must be"),
        ({"neighbours": 59}, "embeddings must be 61 at least for 59 neighbours of each, got 60"),
        ({"items": NAN}, "embeddings: embedding must be finite, row 3 is not"),
        ({"items": ZERO}, "embeddings must have a direction, row 4 is zero"),
        ({"items": Z[:, :1]}, "embeddings must have 2 numbers at least, got 1"),
        ({"labels": Y[:50]}, "labels must have a row for each of the 60 items, got 50"),
        ({"labels": Y * 0}, "labels must hold two classes at least, got 1"),
        ({"labels": torch.arange(60)}, "labels must hold a class of two items at least"),
        ({"labels": Y + 0.5}, "labels must be classes"),
        ({"labels": Y - 2}, "labels must be classes"),
        ({"labels": ["a"] * 60}, "labels must be numbers"),
        ({"labels": torch.where(torch.arange(60) < 10, Y, -1)}, "labels must be known of 20 items"),
        ({"views": [Z[:50]]}, r"views\[0\] must have a row for each of the 60 items, got 50"),
        ({"views": torch.relu}, "views must be arrays where there is no encoder"),
        ({"held_out": (Z[:, :5], Y)}, "held_out must have 8 numbers, as embeddings, got 5"),
        ({"held_out": (Z, None)}, "held_out must have labels"),
        ({"held_out": Z}, "held_out must have labels: give"),
        ({"held_out": Z[:2]}, "held_out must have labels: give"),
        ({"held_out": (Z, Y + 1)}, "held_out must have classes of the items, which lack 4"),
        ({"pairs": Z[:50], "labels": None}, "pairs must have a row for each of the 60 items"),
        ({"pairs": Z[:, :5], "labels": None}, "pairs must have 8 numbers, as embeddings, got 5"),
    ],
)
def test_bad_arrays(options, message):
    with pytest.raises(ValueError, match=message):
        fit_posterior(**{"items": Z, "labels": Y, "steps": 1} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": nn.Identity()}, r"features of shape \(30, F\), got \(30, 1, 2, 4\)"),
        ({"items": torch.full((30, 1, 2, 4), torch.nan)}, "those of image 0 are not"),
        ({"items": []}, "one batch at least"),
    ],
)
def test_bad_images(options, message):
    given = {"encoder": nn.Flatten(), "items": noisy_directions(30)[0], "steps": 1} | options
    with pytest.raises(ValueError, match=message):
        fit_posterior(**given)


def test_bad_new_items(matched):
    with pytest.raises(ValueError, match="embeddings must have 8 numbers, got 5"):
        matched(Z[:, :5])
    with pytest.raises(ValueError, match="row 4 is zero"):
        matched(ZERO)
    without = fit_posterior(Z, steps=1)
    with pytest.raises(ValueError, match="match probabilities need matches"):
        without.match_probability(Z, Z)


def test_a_class_with_one_member_and_few_items_are_taken():
    y = Y.clone()
    y[0] = 9
    assert fit_posterior(Z, y, steps=1)(Z).batch_shape == (60,)
    assert fit_posterior(Z[:12], Y[:12], steps=1)(Z).batch_shape == (60,)


def test_without_labels_items_held_out_need_none():
    fitted = fit_posterior(Z, held_out=Z[:20], steps=1)
    assert fitted.fit.held_out == 20


def test_images_of_bytes_are_those_that_were_fitted_to():
    images = torch.randint(0, 256, (80, 1, 4, 4), dtype=torch.uint8)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
    fitted = fit_posterior(images, torch.arange(80) % 4, encoder=encoder, steps=2)
    torch.testing.assert_close(fitted.gate(images), fitted.gate(images / 255))
    torch.testing.assert_close(fitted(images).concentration, fitted(images / 255).concentration)


def test_a_posterior_in_float64_comes_back_bit_for_bit(tmp_path):
    fitted = fit_posterior(Z, Y, steps=5).double()
    fitted.save_pretrained(tmp_path)
    again = PostHoc.from_pretrained(tmp_path)
    assert torch.equal(again(Z).concentration, fitted(Z).concentration)
    assert torch.equal(again.match_probability(Z, Z[:3]), fitted.match_probability(Z, Z[:3]))


@pytest.mark.parametrize("labels", [Y, None])
def test_autocast_changes_no_number(labels):
    plain = fit_posterior(Z, labels, steps=5)
    with torch.autocast("cpu", torch.bfloat16):
        fitted = fit_posterior(Z, labels, steps=5)
        assert torch.equal(plain(Z).concentration, plain(Z).concentration)
        within = plain(Z).concentration, plain.gate(Z)
    assert torch.equal(fitted(Z).concentration, plain(Z).concentration)
    assert torch.equal(within[0], plain(Z).concentration)
    assert torch.equal(within[1], plain.gate(Z))


def test_labels_that_would_fill_the_memory_are_named():
    with pytest.raises(
        ValueError, match="labels must be numbered without large gaps, got 90000000"
    ):
        fit_posterior(Z, 30_000_000 * Y, steps=1)


def test_what_gives_images_once_cannot_be_changed_again():
    batches = (torch.rand(10, 1, 2, 4) for _ in range(3))
    with pytest.raises(ValueError, match="items must be a tensor or a loader where views are a fu"):
        fit_posterior(batches, encoder=nn.Flatten(), views=torch.relu, steps=1)


def test_labels_of_many_items_and_classes_are_taken():
    count = 1_281_167
    items = Embeddings(torch.zeros(count, 1), torch.arange(count) % 1000)
    assert with_labels(items, None)[1] == count


def test_items_held_out_may_come_as_a_list():
    for labels in (Y[:20], Y[:20].tolist(), Y[:20].numpy()):
        assert fit_posterior(Z, Y, held_out=[Z[:20], labels], steps=1).fit.held_out == 20
