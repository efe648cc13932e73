"""AutoAugment and RandAugment of batches against torchvision's of one image."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import AutoAugmentPolicy as TheirPolicy
from torchvision.transforms import v2

from probcl.data import AutoAugmentPolicy, RandAugmentPolicy
from probcl.data.augment import policies
from probcl.data.augment.policies import Operation, apply_operations

THEIRS = {name: v2.AutoAugment(TheirPolicy(name)) for name in ("imagenet", "cifar10")}


def recorded(monkeypatch):
    """Record the operations of images, in place of applying them."""
    seen = []
    monkeypatch.setattr(policies, "apply_operations", lambda x, ops: (seen.append(ops), x)[1])
    return seen


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_the_tables_are_torchvisions(name):
    expected = [
        [(op, p, None if index is None else index / 9) for op, p, index in pair]
        for pair in THEIRS[name]._policies
    ]
    for ours, pair in zip(AutoAugmentPolicy(name).pairs, expected, strict=True):
        for (op, p, level), (their_op, their_p, their_level) in zip(ours, pair, strict=True):
            assert (op, p) == (their_op, their_p)
            assert their_level is None or level == pytest.approx(their_level)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("operation", sorted(set(policies._OPERATIONS)))
def test_an_operation_at_every_level_equals_torchvisions(operation, height, width, channels):
    theirs = v2.RandAugment()
    space = theirs._AUGMENTATION_SPACE | THEIRS["imagenet"]._AUGMENTATION_SPACE
    magnitudes, two_ways = space[operation]
    steps = [(i / 9, sign) for i in range(10) for sign in ((1, -1) if two_ways else (1,))]
    images = torch.randint(256, (len(steps), channels, height, width), dtype=torch.uint8)
    operations = [Operation(operation, level * sign) for level, sign in steps]
    ours = apply_operations(images, operations)
    as_floats = apply_operations(images.double() / 255, operations)
    for image, row, floats, (level, sign) in zip(images, ours, as_floats, steps, strict=True):
        table = magnitudes(10, height, width)
        magnitude = 0.0 if table is None else sign * float(table[round(9 * level)])
        expected = theirs._apply_image_or_video_transform(
            image, operation, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
        )
        difference = (row.int() - expected.int()).abs()
        if "Shear" in operation or operation == "Rotate":
            # At the nearest neighbour a rounding of the angle may choose the other of two pixels.
            assert (difference > 0).float().mean() < 0.01
        else:
            assert difference.max() <= 1  # a factor rounded to float32 may round a pixel over
        torch.testing.assert_close(floats * 255, row.double())


def test_only_those_with_an_operation_change_each_by_its_own():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    changed = apply_operations(images, [None, Operation("Invert", 0), None, Operation("Invert", 0)])
    assert torch.equal(changed[[0, 2]], images[[0, 2]])
    assert torch.equal(changed[[1, 3]], 255 - images[[1, 3]])


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_pairs_come_as_often_as_they_should(name, monkeypatch):
    seen = recorded(monkeypatch)
    count = 20_000
    AutoAugmentPolicy(name)(torch.zeros(count, 3, 2, 2))
    for step, operations in enumerate(seen):
        expected = Counter()
        for pair in THEIRS[name]._policies:
            op, probability, _ = pair[step]
            expected[op] += count * probability / 25
            expected[None] += count * (1 - probability) / 25
        found = Counter(None if op is None else op.name for op in operations)
        names = [op for op in expected if expected[op] > 0]
        assert set(found) <= set(names)
        frequencies = [found[op] for op in names], [expected[op] for op in names]
        observed, expected = map(np.asarray, frequencies)
        assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
        signs = torch.tensor([op.level > 0 for op in operations if op and op.name == "Rotate"])
        assert not len(signs) or abs(signs.float().mean() - 0.5) < 0.05


def test_randaugment_draws_every_operation_alike_at_one_strength(monkeypatch):
    seen = recorded(monkeypatch)
    RandAugmentPolicy(num_ops=3, magnitude=15)(torch.zeros(14_000, 3, 2, 2))
    assert len(seen) == 3
    for operations in seen:
        counts = Counter(op.name for op in operations)
        assert set(counts) == set(v2.RandAugment._AUGMENTATION_SPACE)
        assert chisquare(list(counts.values())).pvalue > 1e-3
        assert {abs(op.level) for op in operations} == {0.5}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AutoAugmentPolicy("imagenet"), THEIRS["imagenet"]),
        (AutoAugmentPolicy("cifar10"), THEIRS["cifar10"]),
        (RandAugmentPolicy(2, 9), v2.RandAugment(2, 9)),
    ],
)
def test_images_are_distributed_as_torchvisions(ours, theirs):
    image = torch.randint(40, 200, (3, 12, 12), dtype=torch.uint8)
    expected = torch.stack([theirs(image) for _ in range(1500)]).float()
    views = ours(image.expand(1500, -1, -1, -1)).float()
    for number in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: x[:, 0, 0, 0],
        lambda x: x[:, 1, 5, 6],
    ):
        assert ks_2samp(number(views).numpy(), number(expected).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAugmentPolicy("svhn"), "policy must be 'imagenet' or 'cifar10', got 'svhn'"),
        (lambda: RandAugmentPolicy(num_ops=-1), "num_ops must be at least 0, got -1"),
        (lambda: RandAugmentPolicy(magnitude=31), "magnitude must lie between 0 and 30, got 31"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
