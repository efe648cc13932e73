"""Items at work a few at a time: what is said of them is as of all at once."""

import torch

from probcl.evaluation.subsets import in_blocks


def test_blocks_say_what_all_items_at_once_do():
    x, y = torch.randn(9000, 3), torch.randn(9000)
    said = in_blocks(lambda a, b: a.double() * b[:, None], x, y)
    assert torch.equal(said, x.double() * y[:, None])
    sizes = []
    in_blocks(lambda part: sizes.append(len(part)) or part, x)
    assert sum(sizes) == 9000
    assert max(sizes) < 5000
