"""The embedded data set: 8x8 handwritten digits."""

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

from probcl.data.arrays import ImageArrays

__all__ = ["load_digits"]


def load_digits() -> tuple[ImageArrays, ImageArrays]:
    """Return scikit-learn's 1,797 handwritten digits, as a train and a test set.

    The split is fixed and stratified: 1,437 images to train, 360 to test.

    Returns:
        The train set and the test set, images ``(N, 1, 8, 8)`` in [0, 1].

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository.

    Example:
        >>> train, test = load_digits()
        >>> len(train), len(test)
        (1437, 360)
    """
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.as_tensor(pixels / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    train, test = train_test_split(
        torch.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    targets = torch.as_tensor(labels)
    return ImageArrays(images[train], targets[train]), ImageArrays(images[test], targets[test])
