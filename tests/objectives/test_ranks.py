"""Several ranks together have the loss and the gradient of one process with the whole batch.

The ranks are processes that this file, run as a script, forks: what is imported is imported once.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from probcl.objectives import expected_likelihood, info_nce, sup_con, varcon

WORLDS, ITEMS = (2, 4), 16


class Encoder(nn.Module):
    """A linear map to the sphere and a concentration, a temperature and an epsilon."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(7, 6, generator=generator, dtype=torch.float64))
        self.temperature = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.epsilon = nn.Parameter(torch.tensor(0.02, dtype=torch.float64))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = views @ self.weight
        directions = normalize(z[..., :-1], dim=-1)
        return directions, 10 * torch.exp(z[..., -1]), self.temperature, self.epsilon


# Each is a function of directions, concentrations, temperature, epsilon, labels and the options.
OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "info_nce": lambda z, k, t, e, y, **o: info_nce(z, t, **o),
    "info_nce of samples": lambda z, k, t, e, y, **o: info_nce(_samples(z), t, **o),
    "sup_con": lambda z, k, t, e, y, **o: sup_con(z, y, t, **o),
    "sup_con of samples": lambda z, k, t, e, y, **o: sup_con(_samples(z), y, t, **o),
    "sup_con, inside": lambda z, k, t, e, y, **o: sup_con(z, y, t, average="inside", **o),
    "varcon": lambda z, k, t, e, y, **o: varcon(z, y, t, epsilon=e, **o),
    "varcon of samples": lambda z, k, t, e, y, **o: varcon(_samples(z), y, t, epsilon=e, **o),
    "expected_likelihood": lambda z, k, t, e, y, **o: expected_likelihood(z, k, **o),
    "supervised likelihood": lambda z, k, t, e, y, **o: expected_likelihood(z, k, y, **o),
}
VARCON = {"varcon", "varcon of samples"}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def _samples(z: Tensor) -> Tensor:
    return torch.stack([z, z.roll(1, -1) * z.new_tensor([1, -1, 1, -1, 1])])


def problem() -> tuple[Tensor, Tensor]:
    """Return two views, ``(2, B, 7)``, and the labels."""
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(2, ITEMS, 7, generator=generator, dtype=torch.float64)
    return views, torch.randint(4, (ITEMS,), generator=generator)


def run(name: str, views: Tensor, labels: Tensor, **options) -> tuple[Tensor, list[Tensor]]:
    """Return the loss, or losses, and the gradients of their mean.

    They are averaged over ranks, as DistributedDataParallel does.
    """
    encoder = Encoder()
    z, k, t, e = encoder(views)
    loss = OBJECTIVES[name](z, k, t, e, labels, **options)
    parameters = list(encoder.parameters())
    gradients = torch.autograd.grad(loss.mean(), parameters, materialize_grads=True)
    gradients = [gradient.detach() for gradient in gradients]
    if dist.is_initialized():
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return loss.detach(), gradients


def refusals(name: str, views: Tensor, labels: Tensor, rank: int) -> dict[str, str]:
    """Return what is said where the first rank has something wrong."""
    half, none = (len(labels) // 2, 0) if rank == 0 else (len(labels), len(labels))
    messages = {}
    for what, factor, count in (
        ("not finite", torch.nan, None),
        ("too long", 5.0, None),
        ("unequal", 1.0, half),
        ("empty", 1.0, none),
    ):
        with torch.no_grad():
            z, k, t, e = Encoder()(views[:, :count])
        if rank == 0:
            z[0, :1] *= factor
        try:
            OBJECTIVES[name](z, k, t, e, labels[:count])
        except ValueError as error:
            messages[what] = str(error)
    return messages


def odd_labels(views: Tensor, labels: Tensor, rank: int) -> list[Tensor]:
    """Give VarCon labels of other types, with gaps, and a rank without any embedding."""
    names, kept = torch.tensor([-7, 10**12, 3, 99]), len(labels) if rank else 0
    batches = [(views, labels.to(kind)) for kind in (torch.uint8, torch.int8)]
    batches += [(views, names[labels]), (views[:, :kept], labels[:kept])]
    return [run("varcon", *batch)[0] for batch in batches]


def work(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world
    )
    views, labels = problem()
    views, labels = views.chunk(world, 1)[rank], labels.chunk(world)[rank]
    results: dict = {"odd labels": odd_labels(views, labels, rank)}
    for name in OBJECTIVES:
        results[name] = {
            "mean": run(name, views, labels),
            "none": run(name, views, labels, reduction="none"),
            "alone": run(name, views, labels, gather=False)[0],
            "refused": refusals(name, views, labels, rank),
        }
        if name in VARCON:
            half = len(labels) // 2 if rank == 0 else len(labels)
            batch = views[:, :half], labels[:half]
            results[name]["unequal"] = run(name, *batch)
    torch.save(results, folder / f"{world}-{rank}.pt")
    dist.barrier()


def fork(rank: int, world: int, folder: Path) -> int:
    """Start a rank and return its process."""
    if child := os.fork():
        return child
    try:
        work(rank, world, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # gloo's threads may still run when the interpreter is taken down


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    children = [fork(rank, world, folder) for world in WORLDS for rank in range(world)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(codes))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    folder = tmp_path_factory.mktemp("gloo")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, __file__, folder],
        env=environment, timeout=240, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {w: [torch.load(folder / f"{w}-{rank}.pt") for rank in range(w)] for w in WORLDS}


@pytest.fixture(params=WORLDS, ids=[f"{world} ranks" for world in WORLDS])
def ranks(request: pytest.FixtureRequest, results: dict[int, list[dict]]) -> list[dict]:
    return results[request.param]


def assert_close(result: object, expected: object) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


@every_objective
def test_value_and_gradients_are_those_of_the_whole_batch(ranks, name):
    expected = run(name, *problem())
    losses, gradients = run(name, *problem(), reduction="none")
    for result, mine in zip(ranks, losses.chunk(len(ranks), -1), strict=True):
        assert_close(result[name]["mean"], expected)
        assert_close(result[name]["none"], (mine, gradients))


@every_objective
def test_without_gather_each_rank_has_its_own(ranks, name):
    world, (views, labels) = len(ranks), problem()
    for rank, result in enumerate(ranks):
        value, _ = run(name, views.chunk(world, 1)[rank], labels.chunk(world)[rank])
        assert_close(result[name]["alone"], value)


@every_objective
def test_what_is_wrong_on_one_rank_is_an_error_on_all(ranks, name):
    argument = "loc" if "likelihood" in name else "z"
    for result in ranks:
        refused = result[name]["refused"]
        assert f"{argument} must " in refused["not finite"]
        assert f"{argument} must hold unit vectors" in refused["too long"]
        assert "probcl.sphere.normalize" in refused["too long"]
        for what in ("unequal", "empty"):
            same_size = "every rank must hold a batch of the same size" in refused.get(what, "")
            assert same_size == (name not in VARCON)


@pytest.mark.parametrize("name", sorted(VARCON))
def test_varcon_takes_batches_of_any_size(ranks, name):
    skipped = ITEMS // len(ranks) // 2  # the first rank leaves out the second half of its part
    kept = [i for i in range(ITEMS) if not skipped <= i < 2 * skipped]
    views, labels = problem()
    expected = run(name, views[:, kept], labels[kept])
    for result in ranks:
        assert_close(result[name]["unequal"], expected)


def test_varcon_takes_labels_of_any_integers_and_ranks_without_embeddings(ranks):
    views, labels = problem()
    skipped = ITEMS // len(ranks)
    whole, part = (run("varcon", views[:, i:], labels[i:])[0] for i in (0, skipped))
    for result in ranks:
        assert_close(result["odd labels"], [whole, whole, whole, part])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
