"""Time and memory of the whole evaluation of 50,000 embeddings of 128 dimensions, 64 samples each.

    pytest experiments/benchmarks/test_evaluation.py -s

As many training embeddings to compare with; Ward's clustering is on its usual subset, and
there is no t-SNE, which belongs to the report.
"""

import resource
import time

import torch

from probcl.distributions import ProjectedNormal
from probcl.evaluation import Embeddings, evaluate

COUNT, DIM, CLASSES, BATCH = 50_000, 128, 10, 500


def posteriors(seed: int) -> tuple[ProjectedNormal, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    loc = 3 * centres[labels] + 3 * torch.randn(COUNT, DIM, generator=generator)
    return ProjectedNormal(loc, 1 + torch.rand(COUNT, DIM, generator=generator)), labels


def test_evaluation() -> None:
    sets = [described(*posteriors(seed)) for seed in (1, 2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    evaluation = evaluate(sets[0], None, sets[1], None, progress=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nall: {seconds:.1f} s; {before:.2f} GiB before, at most {peak:.2f} GiB")
    assert len(evaluation.test) == COUNT


def described(posterior: ProjectedNormal, labels: torch.Tensor) -> Embeddings:
    """Return embeddings with their posteriors in batches, as they come from a network."""
    blocks = [
        ProjectedNormal(loc, scale)
        for loc, scale in zip(posterior.loc.split(BATCH), posterior.scale.split(BATCH), strict=True)
    ]
    return Embeddings(posterior.loc, labels, posterior.loc.clone(), blocks)
