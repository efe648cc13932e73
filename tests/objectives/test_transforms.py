"""Objectives through torch.compile and the transforms of torch.func."""

import pytest
import torch

from probcl.objectives import expected_likelihood, info_nce, sup_con, varcon
from probcl.sphere import normalize

LABELS = torch.tensor([0, 1, 0, 2, 1])
OBJECTIVES = {
    "info_nce": lambda z: info_nce(z, 0.2),
    "sup_con": lambda z: sup_con(z, LABELS, 0.2),
    "varcon": lambda z: varcon(z, LABELS, 0.2),
    "expected_likelihood": lambda z: expected_likelihood(z, z[..., 0].square() + 0.5),
}
every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))


def directions(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(2, 5, 3, dtype=torch.float64, generator=generator))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
@every_objective
def test_compiles_to_the_same_value_and_gradient(name):
    """Without a word where no label is looked at; with a sentence in one graph where one is.

    On the sphere, that is: off it the compiled expected likelihood is written another way.
    """
    objective, whole = OBJECTIVES[name], name in ("info_nce", "expected_likelihood")
    torch.compiler.reset()
    for seed in (1, 2):
        z = directions(seed).requires_grad_()
        compiled = torch.compile(objective, backend="eager", fullgraph=whole)
        values = [f(normalize(z)) for f in (compiled, objective)]
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(value, z) for value in values))


@pytest.mark.parametrize("name", ["sup_con", "varcon"])
def test_one_graph_of_what_looks_at_its_labels_is_refused(name):
    compiled = torch.compile(OBJECTIVES[name], backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=f"{name} looks at its labels: compile it without ful"):
        compiled(directions())


def test_one_graph_with_a_temperature_to_learn_is_refused():
    compiled = torch.compile(info_nce, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="temperature is a tensor: give a number, or compile"):
        compiled(directions(), torch.tensor(0.2))


@every_objective
def test_reverse_transforms_agree_with_autograd(name):
    def f(x):
        return OBJECTIVES[name](normalize(x))

    x = directions().requires_grad_()
    expected = torch.autograd.grad(f(x), x)[0]
    for transform in (torch.func.grad, torch.func.jacrev):
        torch.testing.assert_close(transform(f)(x.detach()), expected)
    second = torch.func.jacrev(torch.func.jacrev(f))(x.detach())
    torch.testing.assert_close(second, torch.autograd.functional.hessian(f, x.detach()))


@every_objective
def test_vmap_is_refused_in_a_sentence(name):
    z = torch.stack([directions(), directions(1)])
    with pytest.raises(
        NotImplementedError, match=r"checked by its values, which torch\.func\.vmap"
    ):
        torch.func.vmap(OBJECTIVES[name])(z)
    torch.testing.assert_close(
        OBJECTIVES[name](z), torch.stack([OBJECTIVES[name](part) for part in z]).mean()
    )


@pytest.mark.slow
def test_one_graph_keeps_the_digits_of_close_neighbours():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(16, generator=generator)
    loc = normalize(centre + 1e-4 * torch.randn(2, 32, 16, generator=generator))
    kappa = torch.full((2, 32), 1e7)
    torch.compiler.reset()
    compiled = torch.compile(expected_likelihood, backend="eager", fullgraph=True)
    exact = expected_likelihood(normalize(loc.double()), kappa.double())
    torch.testing.assert_close(compiled(loc, kappa).double(), exact, rtol=1e-5, atol=0)
