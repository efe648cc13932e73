"""When a report says to trust a model: by bounds of its error rate, or by a score of its errors."""

from math import ceil, floor

from scipy.stats import binomtest
from torch import Tensor

from probcl.evaluation.abstention import fit_abstention
from probcl.report.choice import FEW, best_score, finder, too_few
from probcl.report.findings import Findings
from probcl.report.words import limit, meaning, percent

__all__ = ["when_to_trust"]

_RISKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
# An error rate that is surely below is trusted, one that is surely above is not.
_LOW, _HIGH = 0.1, 0.3
_CONFIDENCE = 0.9
_GOOD = 0.75  # AUROC of a score that finds errors


def when_to_trust(found: Findings) -> str:
    """Say when to trust the model, as far as errors among the test items can show."""
    best = best_score(found, "out_of_distribution")
    unlike = "."
    if best:
        area = f"AUROC {best[1].value:.2f}"
        unlike = f"; `{best[0]}` tells {found.noun} unlike the training set ({area})."
    if not found.wrong:
        return f"No score could be checked against errors{unlike}"
    return f"{_rule(found) or _without_rule(found)}{unlike}"


def _rule(found: Findings) -> str:
    """Say from where on a score keeps the errors below a level, where that can be shown."""
    score, wrong = finder(found, "probe"), found.wrong["probe"]
    if score is None or too_few(wrong):
        return ""
    for risk in _RISKS:
        if risk >= wrong.float().mean():
            break
        try:
            rule = fit_abstention(-found.scores[score], wrong, risk, _CONFIDENCE)
        except ValueError:
            continue
        if rule.coverage < 0.2:
            continue
        most = limit(-rule.threshold, found.scores[score])
        return (
            f"Trust it where its uncertainty `{score}`{meaning(score)} is at most "
            f"{most}: of those {percent(rule.coverage)} of the items at most "
            f"{percent(risk)} are wrong, with {percent(_CONFIDENCE)} confidence"
        )
    return ""


def _without_rule(found: Findings) -> str:
    """Say what the error rate of all items allows, and which score finds the errors."""
    wrong = found.wrong["probe"]
    errors, count = int(wrong.sum()), len(wrong)
    least, most = _bounds(errors, count)
    are = f"{errors or 'none'} of {count:,} {'is' if errors < 2 else 'are'} wrong"
    at_most = f", at most {percent(most, ceil)} with {percent(_CONFIDENCE)} confidence"
    score, area, finds = _finds(found, wrong)
    if most <= _LOW:
        less = finds and errors > _RISKS[0] * count
        few = f"; {count:,} items are too few to guarantee less" if less else ""
        return f"Trust it on {found.noun} like these: {are}{at_most}{few}{finds}"
    if least > _HIGH and count >= FEW:
        at_least = f", at least {percent(least, floor)} with {percent(_CONFIDENCE)} confidence"
        return f"Do not trust it: {are}{at_least}{finds}"
    if score and not finds:
        return (
            f"No score finds its errors well enough to say when to trust it, the best is "
            f"`{score}` ({area}): {are}{at_most}"
        )
    few = f"{count:,} test items are too few to say when to trust it: {are}"
    return f"{few}{at_most if errors < count else ''}{finds}"


def _bounds(errors: int, count: int) -> tuple[float, float]:
    """Return the lower and the upper confidence bound of an error rate."""
    least, most = (
        binomtest(errors, count, alternative=side).proportion_ci(_CONFIDENCE)
        for side in ("greater", "less")
    )
    return least.low, most.high


def _finds(found: Findings, wrong: Tensor) -> tuple[str, str, str]:
    """Return the best score and its AUROC, "" where nobody can tell, and that it finds errors."""
    best = best_score(found, "ambiguity")
    if best is None or too_few(wrong):
        return "", "", ""
    score, (value, lower, upper) = best
    area = f"AUROC {value:.2f}, {lower:.2f} to {upper:.2f}"
    finds = f", but `{score}`{meaning(score)} finds its errors ({area})" if lower >= _GOOD else ""
    return score, area, finds
