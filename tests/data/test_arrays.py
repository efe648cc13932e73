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


def test_images_need_no_labels():
    data = ImageArrays(IMAGES)
    images, labels, index = data.__getitems__([3, 5])
    assert torch.equal(images, IMAGES[[3, 5]])
    assert labels is None
    assert index.tolist() == [3, 5]
    image, label, row = data[4]
    assert torch.equal(image, IMAGES[4])
    assert (label, int(row)) == (None, 4)


def test_an_item_is_a_batch_without_its_first_axis():
    for part, whole in zip(
        ImageArrays(IMAGES, LABELS)[4], ImageArrays(IMAGES, LABELS).__getitems__([4]), strict=True
    ):
        assert torch.equal(part, whole[0])


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_a_sequence_of_images_is_stacked(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8)
    assert np.array_equal(ImageArrays(kind(list(pixels)), LABELS).images, pixels)
    objects = np.empty(6, object)
    objects[:] = list(pixels)
    assert np.array_equal(ImageArrays(objects, LABELS).images, pixels)
    assert torch.equal(ImageArrays(list(IMAGES), LABELS).images, IMAGES)


def test_images_of_unequal_size_are_refused_and_located():
    images = [*IMAGES[:3], torch.rand(1, 4, 5), *IMAGES[4:]]
    objects = np.empty(6, object)
    objects[:] = [image.numpy() for image in images]
    message = r"must all have one size, got \(1, 4, 4\) at index 0 and \(1, 4, 5\) at index 3"
    for unequal in (images, objects):
        with pytest.raises(ValueError, match=f"images {message}"):
            ImageArrays(unequal, LABELS)


def test_pixels_of_bytes_are_kept_without_a_copy():
    pixels = np.zeros((6, 1, 4, 4), np.uint8)
    assert ImageArrays(pixels, LABELS).images.data_ptr() == pixels.ctypes.data
    turned = ImageArrays(np.zeros((6, 4, 5, 3), np.uint8).transpose(0, 3, 1, 2)).images
    assert turned.is_contiguous()


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
        ([], LABELS, r"images must have shape .* with at least one image"),
        (IMAGES[0], LABELS, r"images must have shape \(N, channels, height, width\)"),
        (IMAGES * 300, LABELS, r"floating-point numbers must be in \[0, 1\]"),
        (torch.full((6, 1, 4, 4), 300), LABELS, "integers must be in 0..255"),
        (
            np.zeros((6, 32, 32, 3), np.uint8),
            LABELS,
            r"got \(6, 32, 32, 3\) with .*: transpose them",
        ),
        (IMAGES, LABELS[:5], "labels must have a row for each of the 6 items, got 5"),
        (IMAGES, LABELS.float(), "labels must be integers, the classes, got torch.float32"),
        (IMAGES, LABELS - 1, "labels must be at least 0, got -1"),
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
    np.save(tmp_path / "single.npz.npy", IMAGES)
    with pytest.raises(ValueError, match="but a single array"):
        read_arrays(tmp_path / "single.npz.npy")
    objects = np.empty(2, object)
    objects[:] = [np.zeros((1, 4, 4)), np.zeros((1, 4, 5))]
    np.savez(tmp_path / "objects.npz", train_images=objects)
    with pytest.raises(ValueError, match=r"images must all have one size, in one array, so resize"):
        read_arrays(tmp_path / "objects.npz")
    np.savez(tmp_path / "part.npz", train_images=IMAGES)
    with pytest.raises(ValueError, match="no array 'train_labels'"):
        read_arrays(tmp_path / "part.npz")
