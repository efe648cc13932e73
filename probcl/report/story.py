"""What a report says in words: three sentences, three answers, and which score for which question.

Every sentence is made from numbers of the evaluation; few errors are said to be few.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv

from probcl.evaluation import QUESTIONS, SCORES
from probcl.evaluation.abstention import fit_abstention
from probcl.report.choice import FEW, best_score, finder
from probcl.report.findings import Findings

__all__ = ["Answered", "answers_of", "confused", "opening", "three_answers"]

_RISKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
_ASKED = {
    "retrieval_error": "Will its nearest neighbour be of another class?",
    "ambiguity": "Is its class wrong?",
    "out_of_distribution": "Is it unlike the training set?",
    "corruption": "How badly is it corrupted?",
    "truth": "How wide is its true posterior?",
}
_ADVICE = 3


class Answered(NamedTuple):
    """A question in words, and the score that answers it best; "" where errors are too few."""

    question: str
    score: str
    text: str


def opening(found: Findings, config: Mapping[str, Any], seconds: Mapping[str, float]) -> list[str]:
    """Return three sentences: what ran, how good it is, when to trust it."""
    return [_what_ran(found, config, seconds), _how_good(found), _when_to_trust(found)]


def three_answers(
    found: Findings, config: Mapping[str, Any], history: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Return the sentences that answer what a reader asks first, by question."""
    return {
        "Which images cannot be trusted?": _doubtful(found),
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
        errors = _errors(found, question)
        score, (value, lower, upper) = best
        if errors is not None and errors < FEW:
            answered.append(Answered(words, "", f"only {errors} such items: too few to tell"))
            continue
        measure = "Spearman" if question in ("corruption", "truth") else "AUROC"
        interval = f"({lower:.2f} to {upper:.2f})"
        answered.append(Answered(words, score, f"{measure} {value:.3f} {interval}"))
    return answered


def _errors(found: Findings, question: str) -> int | None:
    what = {"ambiguity": "probe", "retrieval_error": "retrieval"}.get(question, "")
    wrong = found.wrong.get(what)
    return None if wrong is None else int(wrong.sum())


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
        trained = f"{program}, trained before on {train} images of {data}, was evaluated"
        return f"{trained} on {count}{evaluated}."
    trained = f"{program} was trained on {train} images of {data}"
    length = f" for {epochs} epochs" if epochs else ""
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
        chance = f" (always naming the commonest class: {_percent(commonest)})"
    return (
        f"A linear probe names the right class for {_percent(1 - probe / count)} of them{chance}, "
        f"and the nearest other item is of the same class for {_percent(1 - retrieval / count)}."
    )


def _when_to_trust(found: Findings) -> str:
    best = best_score(found, "out_of_distribution")
    unlike = "."
    if best:
        area = f"AUROC {best[1].value:.2f}"
        unlike = f"; `{best[0]}` tells images unlike the training set ({area})."
    if not found.wrong:
        return f"No score could be checked against errors{unlike}"
    wrong = found.wrong["probe"]
    errors, count = int(wrong.sum()), len(wrong)
    if errors < FEW:
        most = float(betaincinv(errors + 1, count - errors, 0.9)) if errors < count else 1.0
        return (
            f"Trust it on images like these, for {_few(errors, count)}, at most {_percent(most)} "
            f"with 90 % confidence{unlike}"
        )
    score = finder(found, "probe")
    rule = _rule(found, "probe", score) if score else ""
    return f"{rule or 'No score finds its errors well enough to say when to trust it'}{unlike}"


def _few(errors: int, count: int) -> str:
    if errors == 0:
        return f"none of {count:,} is wrong"
    return f"only {errors} of {count:,} {'is' if errors == 1 else 'are'} wrong"


def _rule(found: Findings, what: str, score: str) -> str:
    """Say from where on a score keeps the errors below a level, where that can be shown."""
    values, wrong = found.scores[score], found.wrong[what]
    if len(values) < 2:
        return ""
    for risk in _RISKS:
        if risk >= wrong.float().mean():
            break
        try:
            rule = fit_abstention(-values, wrong, risk)
        except ValueError:
            continue
        if rule.coverage < 0.2:
            continue
        return (
            f"Trust it where its uncertainty `{score}`{_meaning(score)} is at most "
            f"{-rule.threshold:.3g}: of those {_percent(rule.coverage)} of the items at most "
            f"{_percent(risk)} are wrong, with 90 % confidence"
        )
    return ""


def _doubtful(found: Findings) -> list[str]:
    score = finder(found, "probe")
    if score is None:
        return ["No score was computed."]
    order = found.scores[score].argsort(descending=True, stable=True)
    tenth = order[: max(1, len(order) // 10)]
    text = [f"Those with the largest `{score}`{_meaning(score)}; the first of them:"]
    wrong = found.wrong.get("probe")
    if wrong is not None:
        held, errors = int(wrong[tenth].sum()), int(wrong.sum())
        text.append(
            f"The least certain tenth, {len(tenth):,} items, holds {held:,} of the {errors:,} "
            "errors."
            if errors
            else "Not one of the test items is wrong, so nothing shows whether it finds errors."
        )
        if 0 < errors < FEW:
            text.append("Errors so few cannot tell which score finds them best.")
    best = best_score(found, "out_of_distribution")
    if best:
        text.append(
            f"Of images unlike the training set, those with a large `{best[0]}`{_meaning(best[0])}."
        )
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
        "No" if abs(gap) <= within
        else f"Yes, {points}" if gap > 0 else f"No, it is underconfident, {points}"
    )  # fmt: skip
    text = [
        f"{verdict}: its probabilities lead one to expect {shown} errors (two standard "
        f"deviations) among {len(p):,} items, and there are {errors:,}."
    ]
    level = _most_severe(found)
    if level:
        severity, accuracy, error = level
        text.append(
            f"Under corruption of severity {severity} it is right on {_percent(accuracy)}, and "
            f"its probabilities are off by {_percent(error)} on average: "
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
    if len(loss) < 2 or loss[0] <= loss[-1]:
        return ""
    tenth = max(1, len(loss) // 10)
    share = (loss[-1 - tenth] - loss[-1]) / (loss[0] - loss[-1])
    if share < 0.03:
        return ""
    return (
        f"Train longer: {_percent(share)} of the fall of the loss came in the last "
        f"{tenth} of {len(loss)} epochs (`--trainer.max_epochs {2 * len(loss)}`)."
    )


def _calibration(found: Findings) -> str:
    raw, scaled = (found.metrics.get(f"cal/ece{s}") for s in ("", "_temperature_scaled"))
    if raw is None or scaled is None or raw < 0.02 or scaled > 0.8 * raw:
        return ""
    return (
        f"Divide the logits by a temperature fitted on images held out (`fit_temperature`): the "
        f"calibration error falls from {raw:.3f} to {scaled:.3f}."
    )


def _corruption(found: Findings, degraded: int) -> str:
    if not found.shift or "probe" not in found.wrong:
        return ""
    last = {name: levels[max(levels)]["top1"] for name, levels in found.shift.items()}
    worst = min(last, key=lambda name: last[name])
    clean = 1 - found.wrong["probe"].float().mean().item()
    if last[worst] > 0.8 * clean:
        return ""
    fall = f"with the strongest {worst.replace('_', ' ')} accuracy is {_percent(last[worst])}"
    if degraded:
        return f"Train on such images too if they will come: {fall}, though views were degraded."
    return f"Degrade views (`--data.degraded_views 1`) if such images will come: {fall}."


def _pairs(found: Findings) -> str:
    pairs, errors = confused(found), _errors(found, "ambiguity") or 0
    if not pairs or pairs[0][2] < max(FEW / 2, 0.15 * errors):
        return ""
    true, said, count = pairs[0]
    return (
        f"Get more, or cleaner, images of classes {true} and {said}: {count:,} of the {errors:,} "
        "errors are between these two."
    )


def _signs(found: Findings) -> str:
    """Say which score to ask where that of the posterior is far behind."""
    own = found.answers.get("entropy", {})
    for question in ("ambiguity", "retrieval_error"):
        best, errors = best_score(found, question), _errors(found, question) or 0
        if question in own and best and errors >= FEW and own[question].upper < best[1].lower:
            return (
                f"Ask `{best[0]}` about errors, not the entropy of the posterior (AUROC "
                f"{best[1].value:.2f} against {own[question].value:.2f}), or give the embeddings "
                "another posterior, which learns whether neighbours match (`probcl posterior`)."
            )
    return ""


def _set_size(found: Findings) -> str:
    errors = _errors(found, "ambiguity")
    if errors is None or errors >= FEW:
        return ""
    return "Test on more, or harder, images: with so few errors no two scores can be told apart."


def confused(found: Findings) -> list[tuple[int, int, int]]:
    """Return pairs of classes with the errors between them either way, the most first."""
    if found.labels is None or found.predicted is None:
        return []
    wrong = found.labels != found.predicted
    pairs = torch.stack([found.labels[wrong], found.predicted[wrong]]).sort(0).values
    unique, counts = pairs.unique(dim=1, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return [(int(unique[0, n]), int(unique[1, n]), int(counts[n])) for n in order]


def _meaning(score: str) -> str:
    """Return a score's meaning in brackets, where it is short."""
    meaning = SCORES[score].meaning if score in SCORES else ""
    return f" ({meaning})" if 0 < len(meaning) < 90 else ""


def _percent(share: float) -> str:
    digits = 0 if share in (0, 1) else 1 if share > 0.005 else 2
    shown = f"{100 * share:.{digits}f}".removesuffix(".0")
    return f"{shown} %"
