"""Numbers from arrays: embedding quality, calibration and uncertainty."""

from probcl.evaluation.abstention import *
from probcl.evaluation.bootstrap import *
from probcl.evaluation.calibration import *
from probcl.evaluation.clustering import *
from probcl.evaluation.conformal import *
from probcl.evaluation.detectors import *
from probcl.evaluation.embeddings import *
from probcl.evaluation.evaluate import *
from probcl.evaluation.features import *
from probcl.evaluation.geometry import *
from probcl.evaluation.information import *
from probcl.evaluation.knn import *
from probcl.evaluation.metrics import *
from probcl.evaluation.ood import *
from probcl.evaluation.probe import *
from probcl.evaluation.retrieval import *
from probcl.evaluation.sampled import *
from probcl.evaluation.scaling import *
from probcl.evaluation.scores import *
from probcl.evaluation.selective import *
