"""Numbers from arrays: embedding quality, calibration and uncertainty."""

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Embeddings", "Evaluation", "evaluate"]
