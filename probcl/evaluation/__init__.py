"""Numbers from arrays: embedding quality, calibration and uncertainty."""

from probcl.evaluation.bootstrap import (
    Interval,
    auroc_interval,
    bootstrap_interval,
    correlation_interval,
    error_auroc_interval,
    severity_interval,
)
from probcl.evaluation.calibration import (
    Reliability,
    Scaling,
    adaptive_calibration_error,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    fit_temperature,
    fit_vector,
    maximum_calibration_error,
    negative_log_likelihood,
    smooth_calibration_error,
    smooth_reliability,
)
from probcl.evaluation.clustering import clustering_scores, purity, ward_clustering
from probcl.evaluation.conformal import ConformalSets, fit_conformal, set_coverage, set_size
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.evaluate import Evaluation, evaluate, monitor
from probcl.evaluation.geometry import (
    alignment,
    class_concentration,
    class_mean_angles,
    effective_rank,
    participation_ratio,
    singular_spectrum,
    uniformity,
)
from probcl.evaluation.information import (
    human_cross_entropy,
    human_entropy,
    info_nce_information_bound,
    ksg_information,
    label_entropy,
    probe_information,
)
from probcl.evaluation.knn import (
    Neighbours,
    map_at_r,
    nearest,
    nearest_is_wrong,
    neighbour_vote,
    recall_at_1,
    vote_entropy,
)
from probcl.evaluation.metrics import GROUPS, METRICS, Metric
from probcl.evaluation.ood import (
    Aggregate,
    Gate,
    Gaussians,
    auroc,
    average_precision,
    error_auroc,
    false_positive_rate,
    fit_aggregate,
    fit_gate,
    fit_gaussians,
    rank_correlation,
    severity_correlation,
)
from probcl.evaluation.probe import (
    LinearProbe,
    accuracy,
    few_shot_accuracy,
    few_shot_rows,
    fit_linear_probe,
    multi_label_accuracy,
    top_k_accuracy,
)
from probcl.evaluation.sampled import (
    ensemble,
    expected_entropy,
    monte_carlo_dropout,
    mutual_information,
    predictive_entropy,
)
from probcl.evaluation.scores import QUESTIONS, SCORES, Score
from probcl.evaluation.selective import RiskCoverage, retrieval_error_auroc, risk_coverage

__all__ = [
    "GROUPS", "METRICS", "QUESTIONS", "SCORES", "Aggregate", "ConformalSets", "Embeddings",
    "Evaluation", "Gate", "Gaussians", "Interval", "LinearProbe", "Metric", "Neighbours",
    "Reliability", "RiskCoverage", "Scaling", "Score", "accuracy", "adaptive_calibration_error",
    "alignment", "auroc", "auroc_interval", "average_precision", "bootstrap_interval",
    "brier_score", "calibration_error", "class_concentration", "class_mean_angles",
    "classwise_calibration_error", "clustering_scores", "correlation_interval", "effective_rank",
    "ensemble", "error_auroc", "error_auroc_interval", "evaluate", "expected_entropy",
    "false_positive_rate", "few_shot_accuracy", "few_shot_rows", "fit_aggregate", "fit_conformal",
    "fit_gate", "fit_gaussians", "fit_linear_probe", "fit_temperature", "fit_vector",
    "human_cross_entropy", "human_entropy",
    "info_nce_information_bound", "ksg_information", "label_entropy", "map_at_r",
    "maximum_calibration_error", "monitor", "monte_carlo_dropout", "multi_label_accuracy",
    "mutual_information", "nearest", "nearest_is_wrong", "negative_log_likelihood",
    "neighbour_vote", "participation_ratio", "predictive_entropy", "probe_information", "purity",
    "rank_correlation", "recall_at_1", "retrieval_error_auroc", "risk_coverage", "set_coverage",
    "set_size", "severity_correlation", "severity_interval", "singular_spectrum",
    "smooth_calibration_error", "smooth_reliability", "top_k_accuracy", "uniformity",
    "vote_entropy", "ward_clustering",
]  # fmt: skip
