"""For a few hours: the new signatures of probcl.evaluation on the old Evaluator."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta

from probcl.evaluation import Embeddings as Old
from probcl.evaluation import Evaluation, Evaluator
from probcl.evaluation.evaluate import watch
from probcl.evaluation.posterior_scores import draw, mean_resultant_length, posterior_scores
from probcl.programs.program import mean_direction


@dataclass
class Embeddings:
    embedding: Any
    labels: Any = None
    features: Any = None
    posterior: Any = None
    rows: Any = None

    @classmethod
    def concatenate(cls, parts: Any) -> "Embeddings":
        return cls(
            *(
                torch.cat([getattr(p, n) for p in parts])
                for n in ("embedding", "labels", "features")
            ),
            [b for p in parts for b in p.posterior],
            torch.cat([p.rows for p in parts]),
        )

    def old(self) -> tuple[Old, Any]:
        done, samples, start = [], [], 0
        for q in self.posterior:
            here = slice(start, start + q.batch_shape[0])
            start = here.stop
            point, drawn = isinstance(q, Delta), draw(q)
            samples.append(drawn)
            names = [] if point else [n for n in q.arg_constraints if hasattr(q, n)]
            done.append(
                Old(
                    mean_direction(q), self.features[here], self.labels[here], self.rows[here],
                    {n: getattr(q, n) for n in names},
                    {} if point else posterior_scores(q, drawn),
                    None if point else mean_resultant_length(q, drawn),
                    torch.linalg.vector_norm(self.embedding[here].double(), dim=-1),
                )
            )  # fmt: skip
        return Old.concatenate(done), torch.cat(samples, 1)


def monitor(train: Embeddings, test: Embeddings) -> dict[str, float]:
    new = test.old()[0]
    values = watch(train.old()[0], new)
    if new.length is not None:
        values["mean_resultant_length"] = new.length.mean().item()
    return values


def evaluate(
    train: Embeddings, _1: Any, test: Embeddings, _2: Any, *, out_of_distribution: Any,
    corrupted: Any, true_concentration: Any, progress: bool,
) -> Evaluation:  # fmt: skip
    evaluator = Evaluator(train.old()[0])
    evaluator.add_test(*test.old())
    for name, part in out_of_distribution.items():
        evaluator.add_unfamiliar(name, *part.old())
    for name, levels in corrupted.items():
        for severity, part in levels.items():
            evaluator.add_corrupted(name, severity, *part.old())
    result = evaluator.result(None if true_concentration is None else -true_concentration)
    return result
