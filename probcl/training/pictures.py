"""Test images as an evaluation sees them, for those who want to look at some."""

import torch
from torch import Tensor

from probcl.training.batch import Part
from probcl.training.datamodule import ImageData
from probcl.training.evaluation import changed

__all__ = ["test_images"]


def test_images(data: ImageData, rows: Tensor, part: Part) -> Tensor:
    """Return images of the test set in [0, 1], or with the change of a part of an evaluation.

    Args:
        data: Where they are read from.
        rows: Rows of the test set, shape ``(K,)``; each must be readable.
        part: The part; the test set itself for images as they are.

    Returns:
        Shape ``(K, channels, height, width)``, on the CPU.
    """
    images = data._plain(data.sets[1])
    loader = data._loader(images, batch_sampler=[rows.tolist()], num_workers=0)
    with torch.no_grad():
        (batch,) = loader
        whole = data._with_channels(data._whole(batch))
        return changed(whole, batch[2], part).cpu()
