"""What a report says in words: three sentences, three answers, and which score for which question.

Every sentence is made from numbers of the evaluation; few errors are said to be few.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from probcl.evaluation import QUESTIONS
from probcl.report.choice import FEW, best_score, finder, too_few
from probcl.report.findings import Findings
from probcl.report.verdict import when_to_trust
from probcl.report.words import corruption, counted, meaning, measured, percent

__all__ = ["Answered", "answers_of", "confused", "opening", "three_answers"]

_ASKED = {
    "retrieval_error": "Will its nearest neighbour be of another class?",
    "ambiguity": "Is its class wrong?",
    "out_of_distribution": "Is it unlike the training set?",
    "corruption": "How badly is it corrupted?",
    "truth": "How wide is its true posterior?",
}
_ADVICE = 3
_TENTHS = 10  # of the epochs: those of a shorter training say nothing


class Answered(NamedTuple):
    """A question in words, and the score that answers it best; "" where errors are too few."""

    question: str
    score: str
    text: str


def opening(found: Findings, config: Mapping[str, Any], seconds: Mapping[str, float]) -> list[str]:
    """Return three sentences: what ran, how good it is, when to trust it."""
    return [_what_ran(found, config, seconds), _how_good(found), when_to_trust(found)]


def three_answers(
    found: Findings, config: Mapping[str, Any], history: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Return the sentences that answer what a reader asks first, by question."""
    return {
        f"Which {found.noun} cannot be trusted?": _doubtful(found),
        "Is the model overconfident?": _overconfident(found),
        "What should be tried next?": _next(found, config, history) or [
            "Nothing stands out: try another seed before you believe a small difference."
        ],
    }  # fmt: skip


def answers_of(found: Findings) -> list[Answered]:
    """Return which score answers each question best."""
    answered: list[Answered] = []
    for question in (*QUESTIONS, *dict.fromkeys(q for a in found.answers.values() for q in a)):
        best = best_score(found, question)
        words = _ASKED.get(question, QUESTIONS.get(question, question.replace("_", " ")))
        if best is None or any(words == other.question for other in answered):
            continue
        wrong = _wrong(found, question)
        score, (value, lower, upper) = best
        measure, chance = measured(question)
        if wrong is not None and too_few(wrong):
            errors = int(wrong.sum())
            such = f"only {counted(errors, 'such items')}" if errors else "no such items"
            if errors >= FEW:
                such = f"all but {len(wrong) - errors} of {len(wrong)} items are such"
            answered.append(Answered(words, "", f"{such}: too few to tell"))
            continue
        if upper <= chance:
            answered.append(Answered(words, "", "no score tells more than chance"))
            continue
        interval = f"({lower:.2f} to {upper:.2f})"
        answered.append(Answered(words, score, f"{measure} {value:.3f} {interval}"))
    return answered


def _wrong(found: Findings, question: str) -> torch.Tensor | None:
    what = {"ambiguity": "probe", "retrieval_error": "retrieval"}.get(question, "")
    return found.wrong.get(what)


def _what_ran(found: Findings, config: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    count, train = f"{len(found.rows):,} test items", f"{found.trained_on:,}"
    asked = config.get("asked")
    if asked:
        source = asked.get("data") or asked.get("file", "")
        does = "A posterior was fitted to" if asked["command"] == "posterior" else "Embeddings of"
        text = f"{does} {train} items of {source}"
        took = _time(seconds.get("time/fit_s"), " in ")
        verb = "and evaluated" if asked["command"] == "posterior" else "were evaluated"
        return f"{text}{took} {verb} on {count}{_time(seconds.get('time/evaluate_s'), ' in ')}."
    if not config:
        return f"Embeddings of {count} were evaluated against {train} training items."
    program, data = (_named(part) for part in (config["model"]["program"], config["data"]))
    epochs = (config.get("trainer") or {}).get("max_epochs")
    took = _time(seconds.get("time/fit_s"), " in ")
    evaluated = _time(seconds.get("time/evaluate_s"), " in ")
    if not took:
        trained = f"{program}, trained before on {train} {found.noun} of {data}, was evaluated"
        return f"{trained} on {count}{evaluated}."
    trained = f"{program} was trained on {train} {found.noun} of {data}"
    length = f" for {counted(epochs, 'epochs')}" if epochs else ""
    return f"{trained}{length}{took}, and evaluated on {count}{evaluated}."


def _named(part: Mapping[str, Any]) -> str:
    """Return the name of a program or data set, that of a file or folder its own."""
    options = part.get("init_args") or {}
    path = Path(str(options.get("path") or "")).stem
    return options.get("name") or path or part["class_path"].rsplit(".", 1)[-1]


def _time(seconds: float | None, before: str) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60
    shown = f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min"
    return before + (shown if minutes < 100 else f"{minutes / 60:.1f} h")


def _how_good(found: Findings) -> str:
    count = len(found.rows)
    if not found.wrong:
        rank = found.metrics.get("collapse/effective_rank")
        used = "" if rank is None else f": they use {rank:.0f} dimensions"
        return f"Without labels of two classes nobody can say how good the embeddings are{used}."
    probe, retrieval = (int(found.wrong[name].sum()) for name in ("probe", "retrieval"))
    chance = ""
    if found.labels is not None:
        commonest = found.labels.unique(return_counts=True)[1].max().item() / count
        chance = f" (always naming the commonest class: {percent(commonest)})"
    return (
        f"A linear probe names the right class for {percent(1 - probe / count)} of them{chance}, "
        f"and the nearest other item is of the same class for {percent(1 - retrieval / count)}."
    )


def _doubtful(found: Findings) -> list[str]:
    score = finder(found, "probe")
    if score is None:
        return ["No score was computed."]
    order = found.scores[score].argsort(descending=True, stable=True)
    tenth = order[: len(order) // 10]
    text = [f"The most uncertain by `{score}`{meaning(score)}; the first of them:"]
    wrong = found.wrong.get("probe")
    if wrong is not None and len(wrong) >= FEW:
        held, errors = int(wrong[tenth].sum()), int(wrong.sum())
        text.append(
            f"The least certain tenth, {counted(len(tenth), 'items')}, holds {held:,} of the "
            f"{counted(errors, 'errors')}."
            if errors
            else "Not one of the test items is wrong, so nothing shows whether it finds errors."
        )
        if 0 < errors < FEW:
            text.append("Errors so few cannot tell which score finds them best.")
    best = best_score(found, "out_of_distribution")
    if best:
        large = f"those with a large `{best[0]}`{meaning(best[0])}"
        text.append(f"Of {found.noun} unlike the training set, {large}.")
    return text


def _overconfident(found: Findings) -> list[str]:
    if found.confidence is None or "probe" not in found.wrong:
        return ["Without labels that cannot be known."]
    p = found.confidence.double()
    expected, errors = (1 - p).sum().item(), int(found.wrong["probe"].sum())
    within = 2 * (p * (1 - p)).sum().sqrt().item()
    gap = errors - expected
    shown = " ± ".join(f"{x:,.{int(expected < 100)}f}" for x in (expected, within))
    points = f"by {100 * abs(gap) / len(p):.1f} points"
    verdict = (
        "These are too few to tell" if len(p) < FEW
        else "No sign of it" if abs(gap) <= within
        else f"Yes, {points}" if gap > 0 else f"No, it is underconfident, {points}"
    )  # fmt: skip
    text = [
        f"{verdict}: its probabilities lead one to expect {shown} errors (two standard "
        f"deviations) among {counted(len(p), 'items')}, and there are {errors:,}."
    ]
    level = _most_severe(found)
    if level:
        severity, accuracy, error = level
        text.append(
            f"Under corruption of severity {severity} it is right on {percent(accuracy)}, and "
            f"its probabilities are off by {percent(error)} on average: "
            + ("do not take them at their word there." if error > 0.05 else "they hold there too.")
        )
    return text


def _most_severe(found: Findings) -> tuple[int, float, float] | None:
    if not found.shift or "probe" not in found.wrong:
        return None
    severity = max(level for levels in found.shift.values() for level in levels)
    last = [levels[severity] for levels in found.shift.values() if severity in levels]
    accuracy, error = (sum(level[name] for level in last) / len(last) for name in ("top1", "ece"))
    return severity, accuracy, error


def _next(
    found: Findings, config: Mapping[str, Any], history: Mapping[str, np.ndarray]
) -> list[str]:
    """Return what the numbers suggest, what matters most first."""
    degraded = ((config.get("data") or {}).get("init_args") or {}).get("degraded_views", 0)
    advice = (
        _collapse(found), _training(history), _calibration(found), _corruption(found, degraded),
        _pairs(found), _signs(found), _set_size(found),
    )  # fmt: skip
    return [text for text in advice if text][:_ADVICE]


def _collapse(found: Findings) -> str:
    rank, dim = found.metrics.get("collapse/effective_rank"), len(found.spectrum)
    if rank is None or dim < 16 or rank > 4:
        return ""
    return (
        f"The embeddings use {rank:.1f} of {dim} dimensions, they have collapsed: lower the weight "
        "of the KL (beta), raise the temperature, or take larger batches."
    )


def _training(history: Mapping[str, np.ndarray]) -> str:
    loss = history.get("loss", np.zeros(0))
    if len(loss) < _TENTHS or loss[0] <= loss[-1]:
        return ""
    tenth = len(loss) // _TENTHS
    share = (loss[-1 - tenth] - loss[-1]) / (loss[0] - loss[-1])
    if share < 0.03:
        return ""
    return (
        f"Train longer: {percent(share)} of the fall of the loss came in the last "
        f"{tenth} of {len(loss)} epochs (`--trainer.max_epochs {2 * len(loss)}`)."
    )


def _calibration(found: Findings) -> str:
    raw, scaled = (found.metrics.get(f"cal/ece{s}") for s in ("", "_temperature_scaled"))
    wrong = _wrong(found, "ambiguity")
    if raw is None or scaled is None or raw < 0.02 or scaled > 0.8 * raw:
        return ""
    if wrong is None or too_few(wrong):
        return ""
    return (
        f"Divide the logits by a temperature fitted on {found.noun} held out (`fit_temperature`): "
        f"the calibration error falls from {raw:.3f} to {scaled:.3f}."
    )


def _corruption(found: Findings, degraded: int) -> str:
    if not found.shift or "probe" not in found.wrong:
        return ""
    last = {name: levels[max(levels)]["top1"] for name, levels in found.shift.items()}
    worst = min(last, key=lambda name: last[name])
    clean = 1 - found.wrong["probe"].float().mean().item()
    if last[worst] > 0.8 * clean:
        return ""
    fall = f"under the strongest {corruption(worst)} accuracy is {percent(last[worst])}"
    if degraded:
        return f"Train on such {found.noun} too if they come: {fall}, though views were degraded."
    return f"Degrade views (`--data.degraded_views 1`) if such {found.noun} will come: {fall}."


def _pairs(found: Findings) -> str:
    pairs = confused(found)
    errors = sum(count for _, _, count in pairs)
    if not pairs or pairs[0][2] < max(FEW / 2, 0.15 * errors):
        return ""
    true, said = map(found.class_name, pairs[0][:2])
    return (
        f"Get more, or cleaner, {found.noun} of classes {true} and {said}: {pairs[0][2]:,} of the "
        f"{errors:,} errors are between these two."
    )


def _signs(found: Findings) -> str:
    """Say which score to ask where that of the posterior is far behind."""
    own = found.answers.get("entropy", {})
    for question in ("ambiguity", "retrieval_error"):
        best, wrong = best_score(found, question), _wrong(found, question)
        if best is None or wrong is None or too_few(wrong) or question not in own:
            continue
        if own[question].upper < best[1].lower:
            return (
                f"Ask `{best[0]}` about errors, not the entropy of the posterior (AUROC "
                f"{best[1].value:.2f} against {own[question].value:.2f}), or give the embeddings "
                "another posterior, which learns whether neighbours match (`probcl posterior`)."
            )
    return ""


def _set_size(found: Findings) -> str:
    wrong = _wrong(found, "ambiguity")
    if wrong is None or not too_few(wrong):
        return ""
    count = len(wrong)
    if 10 * int(wrong.sum()) < count:
        return f"Test on more, or harder, {found.noun}: so few errors tell no two scores apart."
    return f"Test on more {found.noun}: {counted(count, found.noun)} tell no two scores apart."


def confused(found: Findings) -> list[tuple[int, int, int]]:
    """Return pairs of classes with the errors between them either way, the most first."""
    if found.labels is None or found.predicted is None:
        return []
    wrong = found.labels != found.predicted
    pairs = torch.stack([found.labels[wrong], found.predicted[wrong]]).sort(0).values
    unique, counts = pairs.unique(dim=1, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return [(int(unique[0, n]), int(unique[1, n]), int(counts[n])) for n in order]
