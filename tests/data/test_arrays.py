"""Images in memory: what comes out, and what is refused."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from probcl.data import ImageArrays, load_digits, read_arrays

IMAGES = torch.rand(6, 1, 4, 4)
LABELS = torch.tensor([0, 1, 0, 1, 2, 2])


def test_a_batch_holds_the_rows_asked_for():
    loader = DataLoader(ImageArrays(IMAGES, LABELS), batch_size=4, collate_fn=lambda batch: batch)
    images, labels, index = next(iter(loader))
    assert torch.equal(images, IMAGES[:4])
    assert torch.equal(labels, LABELS[:4])
    assert index.tolist() == [0, 1, 2, 3]


def test_digits_are_scikit_learns_split_in_two_without_overlap():
    from sklearn import datasets

    train, test = load_digits()
    pixels, labels = datasets.load_digits(return_X_y=True)
    assert (len(train), len(test)) == (1437, 360)
    both = torch.cat([train.images, test.images]).flatten(1).mul(16)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, pixels.tolist()))
    assert torch.bincount(test.labels).tolist() == pytest.approx(np.bincount(labels) / 5, abs=1)


def test_arrays_from_a_file_are_those_saved(tmp_path):
    path = tmp_path / "images.npz"
    pixels = np.arange(96, dtype=np.int64).reshape(6, 1, 4, 4)
    np.savez(path, train_images=pixels, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    train, test = read_arrays(path)
    assert train.images.dtype == torch.uint8
    assert np.array_equal(train.images, pixels)
    assert torch.equal(test.images, IMAGES)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"images must have shape \(N, channels, height, width\)"),
        (IMAGES * 300, LABELS, r"floating-point numbers must be in \[0, 1\]"),
        (torch.full((6, 1, 4, 4), 300), LABELS, "integers must be in 0..255"),
        (IMAGES, LABELS[:5], r"labels must have shape \(6,\).*got \(5,\)"),
        (IMAGES, LABELS.float(), "labels must be integers from 0, got torch.float32"),
        (IMAGES, LABELS - 1, "labels must be integers from 0, got -1"),
        (IMAGES, LABELS * 0, "at least two classes, all 6 are 0"),
        (IMAGES, np.array(list("abcabc")), "labels must be real numbers, got <U1"),
        (IMAGES > 0.5, LABELS, "images of integers|images must be real numbers"),
        (IMAGES, LABELS * 10**6, "labels must be below 100000, got 2000000"),
    ],
)
def test_bad_arrays_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageArrays(images, labels)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int32"])
def test_integers_of_every_kind_are_taken(kind):
    data = ImageArrays(np.full((6, 1, 4, 4), 200, kind), np.asarray(LABELS).astype(kind))
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.labels, LABELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused_and_located(value):
    images = IMAGES.clone()
    images[4, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"1 of 6 images have NaN or infinite pixels.*index 4"):
        ImageArrays(images, LABELS)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        read_arrays(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", train_images=IMAGES)
    with pytest.raises(ValueError, match="no array 'train_labels'"):
        read_arrays(tmp_path / "part.npz")
