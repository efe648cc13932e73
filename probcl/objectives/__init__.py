"""Contrastive objectives: pure functions of embeddings on the unit sphere."""

from probcl.objectives.contrastive import info_nce, sup_con

__all__ = ["info_nce", "sup_con"]
