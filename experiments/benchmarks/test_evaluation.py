"""Time and memory of the whole evaluation of 50,000 embeddings of 128 dimensions, 64 samples each.

    pytest experiments/benchmarks/test_evaluation.py -s

As many training embeddings to compare with; Ward's clustering is on its usual subset, and
there is no t-SNE, which belongs to the report.
"""

import resource
import time

import torch

from probcl.distributions import ProjectedNormal
from probcl.evaluation import Embeddings, Evaluator
from probcl.evaluation.posterior_scores import draw, mean_resultant_length, posterior_scores

COUNT, DIM, CLASSES, BATCH = 50_000, 128, 10, 500


def posteriors(seed: int) -> tuple[ProjectedNormal, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    loc = 3 * centres[labels] + 3 * torch.randn(COUNT, DIM, generator=generator)
    return ProjectedNormal(loc, 1 + torch.rand(COUNT, DIM, generator=generator)), labels


def described(posterior: ProjectedNormal, labels: torch.Tensor, rows: torch.Tensor) -> tuple:
    part = ProjectedNormal(posterior.loc[rows], posterior.scale[rows])
    samples = draw(part)
    return Embeddings(
        torch.nn.functional.normalize(part.loc, dim=-1), part.loc, labels[rows], rows,
        scores=posterior_scores(part, samples), length=mean_resultant_length(part, samples),
        norm=part.loc.norm(dim=-1),
    ), samples  # fmt: skip


def test_evaluation() -> None:
    sets = [posteriors(seed) for seed in (1, 2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    marks = {"start": time.perf_counter()}
    batches = torch.arange(COUNT).split(BATCH)
    train = Embeddings.concatenate([described(*sets[0], rows)[0] for rows in batches])
    marks["posteriors of the training set"] = time.perf_counter()
    evaluator = Evaluator(train)
    marks["probes and Gaussians"] = time.perf_counter()
    for rows in batches:
        evaluator.add_test(*described(*sets[1], rows))
    marks["posteriors and scores of the test set"] = time.perf_counter()
    evaluation = evaluator.result()
    marks["result"] = time.perf_counter()
    names, times = list(marks), list(marks.values())
    for name, first, second in zip(names[1:], times, times[1:], strict=False):
        print(f"\n{name}: {second - first:.1f} s", end="")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nall: {times[-1] - times[0]:.1f} s; {before:.2f} GiB before, at most {peak:.2f} GiB")
    assert len(evaluation.test) == COUNT
