"""Numbers from arrays: embedding quality, calibration and uncertainty."""

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.evaluate import Evaluation, evaluate, monitor
from probcl.evaluation.metrics import GROUPS, METRICS, Metric
from probcl.evaluation.scores import QUESTIONS, SCORES, Score

__all__ = [
    "GROUPS",
    "METRICS",
    "QUESTIONS",
    "SCORES",
    "Embeddings",
    "Evaluation",
    "Metric",
    "Score",
    "evaluate",
    "monitor",
]
