"""Several ranks together have the loss and the gradient of one process with the whole batch."""

import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from probcl.objectives import varcon

HERE = Path(__file__).parent
WORKER = HERE / "gloo_worker.py"
_SPEC = importlib.util.spec_from_file_location(WORKER.stem, WORKER)
gloo_worker = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(gloo_worker)

every_objective = pytest.mark.parametrize("name", gloo_worker.OBJECTIVES)


def problem() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "views": torch.randn(2, 16, 7, generator=generator, dtype=torch.float64),
        "labels": torch.randint(4, (16,), generator=generator),
        "weight": torch.randn(7, 6, generator=generator, dtype=torch.float64),
    }


def one_process(name: str, views: torch.Tensor, labels: torch.Tensor) -> tuple:
    encoder = gloo_worker.Encoder(problem()["weight"])
    loss = gloo_worker.OBJECTIVES[name](encoder(views), labels, gather=True)
    loss.backward()
    return loss.detach(), encoder.weight.grad


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    world = request.param
    folder = tmp_path_factory.mktemp(f"gloo{world}")
    torch.save(problem(), folder / "problem.pt")
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    with ExitStack() as stack:
        logs = [stack.enter_context((folder / f"{rank}.log").open("w")) for rank in range(world)]
        workers = [
            subprocess.Popen(
                [sys.executable, WORKER, str(rank), str(world), folder],
                stderr=log,
                env=environment,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = [worker.wait(timeout=240) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    assert not any(codes), "".join(log.read_text() for log in folder.glob("*.log"))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


@every_objective
def test_value_and_gradient_are_those_of_the_whole_batch(ranks, name):
    value, gradient = one_process(name, problem()["views"], problem()["labels"])
    for result in ranks:
        torch.testing.assert_close(result[name][0], value, rtol=1e-10, atol=0)
        torch.testing.assert_close(result[name][1], gradient, rtol=1e-10, atol=1e-12)


@every_objective
def test_without_gather_each_rank_has_its_own(ranks, name):
    world = len(ranks)
    for rank, result in enumerate(ranks):
        views = problem()["views"].chunk(world, dim=1)[rank]
        value, _ = one_process(name, views, problem()["labels"].chunk(world)[rank])
        torch.testing.assert_close(result[f"{name}, local"], value, rtol=1e-10, atol=0)


def test_varcon_takes_batches_of_any_size(ranks):
    skipped = 16 // len(ranks) // 2  # the first rank leaves out the second half of its part
    kept = [i for i in range(16) if not skipped <= i < 2 * skipped]
    value, gradient = one_process("varcon", problem()["views"][:, kept], problem()["labels"][kept])
    for result in ranks:
        torch.testing.assert_close(result["varcon, unequal"][0], value, rtol=1e-10, atol=0)
        torch.testing.assert_close(result["varcon, unequal"][1], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(gloo_worker.OBJECTIVES) - {"varcon"}))
def test_the_others_refuse_batches_of_different_sizes_on_every_rank(ranks, name):
    for result in ranks:
        assert "every rank must hold a batch of the same size" in result[f"{name}, unequal"]


def test_varcon_takes_labels_of_any_integers_and_ranks_without_embeddings(ranks):
    z = torch.nn.functional.normalize(problem()["views"][:1], dim=-1)
    labels = problem()["labels"]
    skipped = len(labels) // len(ranks)
    whole = varcon(z, labels, 0.1)
    expected = [whole, whole, whole, varcon(z[:, skipped:], labels[skipped:], 0.1)]
    for result in ranks:
        torch.testing.assert_close(result["varcon, odd labels"], expected, rtol=1e-10, atol=0)


def test_what_is_not_finite_on_one_rank_is_an_error_on_all(ranks):
    for result in ranks:
        assert "z must " in result["NaN on one rank"]
