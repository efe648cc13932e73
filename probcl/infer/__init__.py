"""Variational inference for contrastive programs."""

from probcl.infer.annealing import LinearAnnealing
from probcl.infer.auto_sphere import AutoSphere
from probcl.infer.contrastive_elbo import ContrastiveELBO, ContrastiveLoss

__all__ = ["AutoSphere", "ContrastiveELBO", "ContrastiveLoss", "LinearAnnealing"]
