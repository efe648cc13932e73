"""Packed image files: every pixel is that of the file, and every damage is named."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probcl.data import read_arrays
from probcl.data.datasets import decode_image
from probcl.data.readers import decode_packed

DATA = Path(os.environ.get("PROBCL_DATA", Path(__file__).parents[3] / "shared" / "data"))
CIFAR = DATA / "cifar10.npz"


def encoded(seed, size=(9, 7), mode="RGB", kind="PNG"):
    """Return the file of a random image of that width and height."""
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def packed(contents):
    """Return ``jpeg`` and ``offset`` of image files."""
    jpeg = np.frombuffer(b"".join(contents), np.uint8)
    return jpeg, np.cumsum([0, *map(len, contents)])


FILES = [
    encoded(0),
    encoded(1, kind="JPEG"),
    encoded(2, mode="L"),
    encoded(3, mode="L", kind="JPEG"),
    encoded(4, mode="RGBA"),
    *(encoded(seed) for seed in range(5, 200)),
]


def saved(path, contents=FILES, **changes):
    jpeg, offset = packed(contents)
    rows = np.arange(len(contents))
    arrays = {"jpeg": jpeg, "offset": offset, "label": rows % 3, "split": rows % 2} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_pixels_are_those_encoded():
    images = decode_packed(*packed(FILES))
    assert images.dtype == torch.uint8
    for seed, pixels in enumerate(images):
        if seed in (0, *range(5, 200)):  # PNG files in colour, which lose nothing
            expected = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
        else:
            expected = np.asarray(Image.open(io.BytesIO(FILES[seed])).convert("RGB"))
        assert np.array_equal(pixels, expected.transpose(2, 0, 1))


def test_parts_hold_their_rows_in_order(tmp_path):
    path = saved(tmp_path / "images.npz", classes=np.array(["a", "b", "c"], object))
    whole = decode_packed(*packed(FILES))
    for number, part in enumerate(read_arrays(path)):
        assert torch.equal(part.images, whole[number::2])
        assert torch.equal(part.labels, torch.arange(len(FILES))[number::2] % 3)


@pytest.mark.skipif(not CIFAR.is_file(), reason="PROBCL_DATA has no cifar10.npz")
def test_cifar10_of_60_000_files():
    train, test = read_arrays(CIFAR)
    assert (train.images.shape, test.images.shape) == ((50000, 3, 32, 32), (10000, 3, 32, 32))
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    with np.load(CIFAR) as file:
        jpeg, offset, label = file["jpeg"], file["offset"], file["label"]
    for part, row in ((train, 0), (train, 41), (train, 49_999), (test, 50_000), (test, 59_999)):
        content = jpeg[offset[row] : offset[row + 1]].tobytes()
        pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        assert np.array_equal(part.images[row % 50_000], pixels)
        assert part.labels[row % 50_000] == label[row]


def test_an_image_in_sixteen_bits_is_refused_not_clipped():
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(file, "PNG")
    with pytest.raises(ValueError, match="its pixels are 'I;16', not of 8 bits"):
        decode_image(file.getvalue())


def test_an_image_that_cannot_be_decoded_is_named():
    for damage in (b"nothing", FILES[150][:100], b"\xff\xd8\xff"):
        contents = [*FILES[:150], damage, *FILES[151:], damage]
        with pytest.raises(ValueError, match=r"image at index 150 cannot be decoded .*: repair"):
            decode_packed(*packed(contents))


def test_an_image_of_another_size_is_named_with_both_sizes():
    contents = [*FILES[:70], encoded(0, size=(8, 7)), *FILES[71:]]
    message = "one size, got 7x9 at index 0 and 7x8 at index 70: resize them"
    with pytest.raises(ValueError, match=message):
        decode_packed(*packed(contents))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": np.array([0, 60, 60, 90])}, "offset must increase, got 60 at index 1 and 60"),
        ({"offset": np.array([0, 90, 60, 91])}, "offset must increase, got 90 at index 1 and 60"),
        ({"offset": np.array([-1, 30, 60, 90])}, "offset must be in 0.."),
        ({"offset": np.array([0, 30, 60, 10**6])}, r"offset must be in 0\.\..*got 0\.\.1000000"),
        ({"offset": np.array([0.0, 30, 60, 90])}, r"offset must hold N \+ 1 integers.*float64"),
        ({"jpeg": np.zeros(90, np.int8)}, "jpeg must hold bytes of type uint8.*int8"),
        ({"jpeg": np.zeros((3, 30), np.uint8)}, r"jpeg must hold bytes.*\(3, 30\)"),
        ({"label": np.array([0, 1])}, r"label must have shape \(3,\).*got \(2,\)"),
        ({"split": np.array([0, 1, 1, 1])}, r"split must have shape \(3,\).*got \(4,\)"),
        ({"split": np.array([0, 0, 0])}, r"split must be 0 .* some of each, got the values \[0\]"),
        ({"split": np.array([1, 1, 1])}, r"some of each, got the values \[1\]"),
        ({"split": np.array([0, 1, 2])}, r"got the values \[0, 1, 2\]"),
        ({"label": np.array([0, 1, 0])}, "train_labels must hold at least two classes"),
        ({"label": None}, "has no array 'label'"),
        ({"offset": None}, "has no array 'offset'.*jpeg, offset, label, split"),
        ({"label": np.array([0, None, 1])}, "label in .* is an array of objects"),
    ],
)
def test_bad_files_are_refused(tmp_path, changes, message):
    arrays = {"split": np.array([0, 1, 0])} | changes
    path = saved(tmp_path / "bad.npz", FILES[5:8], **arrays)
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


def test_a_damaged_array_is_named(tmp_path):
    path = saved(tmp_path / "images.npz")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("jpeg.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 500] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: jpeg in .* is damaged"):
        read_arrays(path)
