"""Measure posteriors for embeddings that are there already, every simple score beside them.

    python experiments/posteriors/measure.py text debian.npz
    python experiments/posteriors/measure.py fashion_mnist FILE --seeds 0

``FILE`` holds arrays: ``embedding``, ``label`` and ``split`` (0 fit, 1 held out, 2 test; without it
the first 10,000 items, the next 2,000 and the next 4,000), with ``features`` where there are more,
``view_NAME`` and ``view_NAME_features`` for changed copies of the items to fit to, and
``outside_NAME``, ``outside_NAME_features`` for items out of distribution, ``corrupted_NAME_1`` to
``_5`` (and ``_features``) for the first of the test items, corrupted to each severity, and
``votes`` for how many people gave each test item each class.

The question is whether the nearest item that was fitted to is of another class. One record,
``NAME-seedN.json``, has every number, with 95 % intervals of 500 resamples of the test items; those
of a difference are paired.
"""

import argparse
import json
import time
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from scipy.stats import entropy, spearmanr
from torch import Tensor

from probcl.evaluation import (
    Embeddings,
    auroc,
    error_auroc,
    event_calibration_error,
    nearest,
    neighbour_vote,
    vote_entropy,
)  # fmt: skip
from probcl.files import write_whole
from probcl.programs import PostHoc, fit_posterior
from probcl.runs import environment

HERE = Path(__file__).parent
NEAR, VOTERS, RESAMPLES = 5, 20, 500


def read(path: Path) -> tuple[dict[str, Embeddings], np.ndarray | None]:
    """Return the parts of a file of arrays by name, and people's votes."""
    arrays = dict(np.load(path))
    split = arrays.get("split")
    if split is None:
        split = np.repeat([0, 1, 2, 3], [10_000, 2_000, 4_000, len(arrays["label"]) - 16_000])
    features = arrays.get("features")
    parts = {
        name: Embeddings(
            arrays["embedding"][split == number],
            arrays["label"][split == number],
            None if features is None else features[split == number],
        )
        for number, name in enumerate(("fit", "held_out", "test"))
    }
    kinds = ("view_", "outside_", "corrupted_")
    for name, array in arrays.items():
        if name.startswith(kinds) and not name.endswith("_features"):
            parts[name] = Embeddings(array, features=arrays.get(f"{name}_features"))
    return parts, arrays.get("votes")


def scores_of(posterior: PostHoc, items: Embeddings) -> dict[str, Tensor]:
    """Return the scores of items by name; the larger, the less certain."""
    head = posterior.posterior_head
    bank, q, gate = head.bank, posterior(items), posterior.gate(items)
    near = bank.nearest(items.direction.float())
    few = type(near)(near.cosine[:, :VOTERS], near.row[:, :VOTERS])
    p = bank.probe.probabilities(items.features)
    vote = neighbour_vote(few, bank.labels, p.shape[1], temperature=0.1).to(p)
    match = posterior.neighbour_match(items).probability
    return {
        "entropy": q.entropy(),
        "gated": -gate * q.mean_resultant_length,
        "pair": -match[:, 0],
        "gated pair": -gate * match[:, 0],
        "agreement": 1 - (p * vote).sum(-1),
        "max probability": -p.amax(-1),
        "vote entropy": vote_entropy(vote),
        "nearest cosine": -near.cosine[:, NEAR - 1],
    }


def interval(values: list[float]) -> list[float]:
    """Return the bounds between which 95 % of the resamples lie."""
    return np.quantile(values, [0.025, 0.975]).round(4).tolist()


def measure(parts: dict[str, Embeddings], votes: np.ndarray | None, seed: int) -> dict[str, object]:
    """Fit a posterior and return what was measured."""
    fit, test = parts["fit"], parts["test"]
    views = [part for name, part in parts.items() if name.startswith("view_")]
    began = time.perf_counter()
    posterior = fit_posterior(fit, held_out=parts["held_out"], views=views or None, seed=seed)
    seconds = time.perf_counter() - began
    bank = posterior.posterior_head.bank
    with torch.no_grad():
        scores, (probability, row) = scores_of(posterior, test), posterior.neighbour_match(test)
        outside = {
            name.removeprefix("outside_"): scores_of(posterior, part)
            for name, part in parts.items()
            if name.startswith("outside_")
        }
    directions = posterior(test).loc.detach()
    unchanged = torch.equal(directions, test.direction) and torch.equal(
        bank.embedding, fit.direction
    )
    wrong = bank.labels[nearest(directions, bank.embedding).row[:, 0]] != test.labels
    found = {name: error_auroc(values, wrong) for name, values in scores.items()}
    random = np.random.default_rng(0)
    drawn = [random.integers(len(test), size=len(test)) for _ in range(RESAMPLES)]
    again = {
        name: [error_auroc(values[rows], wrong[rows]) for rows in drawn]
        for name, values in scores.items()
    }
    gained = np.subtract(again["entropy"], again["agreement"]).tolist()
    matched = bank.labels[row] == test.labels[:, None]
    p = probability.clamp(1e-4, 1 - 1e-4).double()
    loss = torch.nn.functional.binary_cross_entropy(p, matched.double())
    right = bank.probe.predict(test.features) == test.labels
    return {
        "recall_at_1": 1 - wrong.double().mean().item(),
        "directions_unchanged": unchanged,
        "probe": right.double().mean().item(),
        "retrieval_error": found,
        "retrieval_error_interval": {name: interval(values) for name, values in again.items()},
        "entropy_minus_agreement_interval": interval(gained),
        "match_loss": loss.item(),
        "match_calibration_error": event_calibration_error(p.flatten(), matched.flatten()),
        "out_of_distribution": {
            name: {score: auroc(scores[score], values) for score, values in part.items()}
            for name, part in outside.items()
        },
        "severity": severities(posterior, parts, scores),
        "rests_on": str(posterior.fit),
        "fit_seconds": round(seconds, 1),
    } | agreement_with_people(scores, votes)


def severities(
    posterior: PostHoc, parts: dict[str, Embeddings], clean: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Return each score's rank correlation with the severity, 0 to 5, by corruption."""
    names = {name.split("_", 1)[1][:-2] for name in parts if name.startswith("corrupted_")}
    found = {}
    for name in sorted(names):
        levels = [parts[f"corrupted_{name}_{severity}"] for severity in range(1, 6)]
        count = len(levels[0])
        with torch.no_grad():
            scores = [{s: values[:count] for s, values in clean.items()}]
            scores += [scores_of(posterior, level) for level in levels]
        severity = np.repeat(np.arange(6), count)
        found[name] = {
            s: float(spearmanr(torch.cat([each[s] for each in scores]), severity).statistic)
            for s in clean
        }
    return found


def agreement_with_people(
    scores: dict[str, Tensor], votes: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Return each score's rank correlation with the entropy of people's votes, if there are any."""
    if votes is None:
        return {}
    people = entropy(votes, axis=1)
    return {"people": {s: float(spearmanr(v, people).statistic) for s, v in scores.items()}}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    parts, votes = read(chosen.file)
    for seed in chosen.seeds:
        sizes = {name: [len(part), part.embedding.shape[1]] for name, part in parts.items()}
        options = {
            name: option.default
            for name, option in signature(fit_posterior).parameters.items()
            if isinstance(option.default, int | float)
        }
        config = options | {"seed": seed, "threads": torch.get_num_threads(), "sizes": sizes}
        record = {"config": config, "environment": environment()} | measure(parts, votes, seed)
        path = HERE / f"{chosen.name}-seed{seed}.json"
        write_whole(path, json.dumps(record, indent=1) + "\n")
        print(path, record["retrieval_error"], record["match_loss"], flush=True)


if __name__ == "__main__":
    main()
