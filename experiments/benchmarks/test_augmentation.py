"""Two augmented views of 32x32 images: whole batches against lightly's, one image at a time.

Run with ``python -m pytest experiments/benchmarks -s``; needs the extra ``baselines``.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from measure import Row, settle, threads
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from probcl.data import Augmentation, AutoAugment, SimAugment, StackedRandAugment

COUNT, SIZE, BATCH, WORKERS = 10_000, 32, 256, 2
ROUNDS = 3
RECIPES = {
    "SimAugment": SimAugment(),
    "SimAugment, blurred": SimAugment(blur=0.5),
    "AutoAugment": AutoAugment(policy="cifar10"),
    "StackedRandAugment": StackedRandAugment(),
}
BAR = 0.1  # of lightly's time


class Pictures(Dataset):
    """Random images of PIL, through a transform that gives two views."""

    def __init__(self, images: np.ndarray, transform: object) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[row]))


def images_per_second(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return COUNT / (time.perf_counter() - start)


def both_views(augment: Augmentation, images: torch.Tensor) -> None:
    for batch in images.split(BATCH):
        augment(batch)
        augment(batch)


def gpu_figures(images: torch.Tensor) -> dict[str, object] | str:
    """Measure the recipes on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return "not measured"
    images = images.cuda()
    rounds = {
        name: [images_per_second(partial(both_views, augment, images)) for _ in range(ROUNDS)]
        for name, augment in RECIPES.items()
    }
    best = {name: max(values) for name, values in rounds.items()}
    return {"hardware": torch.cuda.get_device_name(), "images_per_second": best}


def test_two_views() -> None:
    """SimAugment makes at least ten times as many pairs of views as lightly's workers."""
    transforms = pytest.importorskip("lightly.transforms", reason="pip install 'probcl[baselines]'")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    # The same transforms in both: no blur, jitter of strength one half.
    theirs = transforms.SimCLRTransform(
        input_size=SIZE, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.0, normalize=None
    )
    loader = DataLoader(Pictures(pixels, theirs), BATCH, num_workers=WORKERS)

    def lightly() -> None:
        for _ in loader:
            pass

    figures: dict[str, list[float]] = {name: [] for name in ("lightly", *RECIPES)}
    with threads(2):
        for _ in range(ROUNDS):
            figures["lightly"].append(images_per_second(lightly))
            for name, augment in RECIPES.items():
                figures[name].append(images_per_second(partial(both_views, augment, images)))
    best = {name: max(values) for name, values in figures.items()}
    settle(
        "augmentation",
        f"two views of {COUNT} images of {SIZE}x{SIZE} pixels, best of {ROUNDS}, 2 threads; "
        f"lightly's SimCLRTransform in a DataLoader of {WORKERS} workers",
        {"two views, SimAugment / lightly": Row(best["lightly"] / best["SimAugment"], BAR)},
        images_per_second=best,
        gpu=gpu_figures(images),
    )
