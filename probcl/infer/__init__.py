"""Variational inference for contrastive programs."""

from probcl.infer.contrastive_elbo import ContrastiveELBO, ContrastiveLoss

__all__ = ["ContrastiveELBO", "ContrastiveLoss"]
