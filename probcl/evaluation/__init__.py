"""Numbers from arrays: embedding quality, calibration and uncertainty."""

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.evaluate import Evaluation, Evaluator
from probcl.evaluation.scorer import Scorer
from probcl.evaluation.scores import LIBRARY_SCORE, QUESTIONS, SCORES

__all__ = [
    "LIBRARY_SCORE",
    "QUESTIONS",
    "SCORES",
    "Embeddings",
    "Evaluation",
    "Evaluator",
    "Scorer",
]
