"""Items at work a few at a time: what is said of them is as of all at once."""

import numpy as np
import pytest
import torch

from probcl.evaluation.subsets import evenly_spaced, in_blocks


def test_blocks_say_what_all_items_at_once_do():
    x, y = torch.randn(9000, 3), torch.randn(9000)
    said = in_blocks(lambda a, b: a.double() * b[:, None], x, y)
    assert torch.equal(said, x.double() * y[:, None])
    sizes = []
    in_blocks(lambda part: sizes.append(len(part)) or part, x)
    assert sum(sizes) == 9000
    assert max(sizes) < 5000


@pytest.mark.parametrize("count", [1, 7, 10_000, 2**24 + 4, 2**40])
def test_rows_go_from_the_first_to_the_last(count):
    rows = evenly_spaced(count, 500).tolist()
    assert rows[0] == 0
    assert rows[-1] == count - 1
    assert len(set(rows)) == min(count, 500)
    assert rows == np.linspace(0, count - 1, min(count, 500)).round().astype(int).tolist()
