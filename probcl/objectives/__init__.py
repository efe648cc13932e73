"""Contrastive objectives: pure functions of embeddings, or posteriors, on the unit sphere.

They raise low precision to float32 and switch autocast off inside. The memory of ``info_nce`` and
``sup_con`` grows with the batch, not with its square.
"""

from probcl.objectives.expected_likelihood import expected_likelihood
from probcl.objectives.info_nce import info_nce
from probcl.objectives.sup_con import sup_con
from probcl.objectives.varcon import varcon

__all__ = ["expected_likelihood", "info_nce", "sup_con", "varcon"]
