"""Images in memory: what comes out, what is refused, and the files they are read from."""

import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from probcl.data import ImageArrays, check_classes, load_digits, read_arrays
from probcl.data.datasets import decode_image
from probcl.data.readers import decode_packed

DATA = Path(os.environ.get("PROBCL_DATA", Path(__file__).parents[3] / "shared" / "data"))
CIFAR = DATA / "cifar10.npz"

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
    np.savez(
        tmp_path / "other.npz",
        train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS + 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="training labels, which lack classes 3, 4: number"):
        read_arrays(tmp_path / "other.npz")


def test_a_header_that_declares_more_than_there_is_is_one_sentence(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**8, 3, 10**4, 10**4)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("train_images.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"path: .*huge\.npz needs more memory than there is"):
        read_arrays(tmp_path / "huge.npz")


class Labelled(Dataset):
    """A data set of a user's own, as torchvision writes them."""

    def __init__(self, transform=None, **labels):
        self.target_transform = transform
        vars(self).update(labels)

    def __len__(self):
        return 4


def test_a_test_class_that_training_lacks_is_refused_wherever_labels_are_kept():
    train = Labelled(targets=[0, 1, 1, 0])
    message = r"test labels must be among the training labels, which lack class 2: number"
    for test in (
        Labelled(targets=[0, 1, 2, 2]),
        Labelled(labels=torch.tensor([0, 1, 2, 1])),
        Subset(Labelled(labels=np.array([0, 5, 2, 2])), [0, 2]),
        ImageArrays(IMAGES, LABELS),
    ):
        with pytest.raises(ValueError, match=message):
            check_classes(train, test)
    check_classes(Labelled(targets=[2, 1, 1, 0]), train)
    with pytest.raises(ValueError, match="lack classes 2, 3, 4, 5, 6 and more: number"):
        check_classes(train, ImageArrays(torch.rand(9, 1, 4, 4), torch.arange(9)))


def test_labels_that_are_not_known_before_they_are_read_are_not_compared():
    train = Labelled(targets=[0, 1, 1, 0])
    for test in (
        Labelled(),
        Labelled(targets=["a", "b"]),
        Labelled(lambda label: label % 2, targets=[0, 1, 2, 3]),
        ImageArrays(IMAGES),
    ):
        check_classes(train, test)


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
            image = Image.open(io.BytesIO(FILES[seed]))
            expected = np.asarray(image.convert("RGB"))
            if seed == 4:  # on white
                alpha = np.asarray(image)[..., 3:] / 255
                expected = np.round(alpha * expected + (1 - alpha) * 255)
        difference = np.abs(pixels.numpy() - expected.transpose(2, 0, 1).astype(int))
        assert difference.max() <= (seed == 4)


def test_parts_hold_their_rows_in_order(tmp_path):
    path = saved(tmp_path / "images.npz", classes=np.array(["a", "b", "c"], object))
    whole = decode_packed(*packed(FILES))
    for number, part in enumerate(read_arrays(path)):
        assert torch.equal(part.images, whole[number::2])
        assert torch.equal(part.labels, torch.arange(len(FILES))[number::2] % 3)


@pytest.mark.skipif(not CIFAR.is_file(), reason="PROBCL_DATA has no cifar10.npz")
def test_cifar10(tmp_path):
    with np.load(CIFAR) as file:
        jpeg, offset, label, split = (file[name] for name in ("jpeg", "offset", "label", "split"))
    rows = slice(49_000, 51_000)
    bounds = offset[rows.start : rows.stop + 1]
    np.savez(
        tmp_path / "part.npz", jpeg=jpeg[bounds[0] : bounds[-1]], offset=bounds - bounds[0],
        label=label[rows], split=split[rows],
    )  # fmt: skip
    train, test = read_arrays(tmp_path / "part.npz")
    assert train.images.shape == test.images.shape == (1000, 3, 32, 32)
    assert train.labels.tolist() == label[49_000:50_000].tolist()
    for part, row in ((train, 49_000), (train, 49_999), (test, 50_000), (test, 50_999)):
        content = jpeg[offset[row] : offset[row + 1]].tobytes()
        pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        assert np.array_equal(part.images[row % 1000], pixels)
        assert part.labels[row % 1000] == label[row]


def test_an_image_in_sixteen_bits_is_refused_not_clipped():
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(file, "PNG")
    with pytest.raises(ValueError, match=r"its pixels are 'I.*', not of 8 bits"):
        decode_image(file.getvalue())


def test_an_image_that_declares_too_many_pixels_is_refused_by_its_header():
    content = FILES[0]
    assert decode_image(content, max_pixels=63).size == (9, 7)
    with pytest.raises(ValueError, match="it declares 9x7 pixels, more than 62"):
        decode_image(content, max_pixels=62)
    header = content[:16] + (50_000).to_bytes(4, "big") * 2 + content[24:29]
    check = zlib.crc32(header[12:]).to_bytes(4, "big")
    with pytest.raises(Image.DecompressionBombError, match="2500000000 pixels"):  # Pillow's own
        decode_image(header + check + content[33:])


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
def test_bad_packed_files_are_refused(tmp_path, changes, message):
    arrays = {"split": np.array([0, 1, 0])} | changes
    path = saved(tmp_path / "bad.npz", FILES[5:8], **arrays)
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


def test_a_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("probcl.data.readers.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes once unpacked, more than the memory"):
        read_arrays(saved(tmp_path / "packed.npz"))


def test_a_damaged_array_is_named(tmp_path):
    path = saved(tmp_path / "images.npz")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("jpeg.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 500] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: jpeg in .* is damaged"):
        read_arrays(path)


def test_arrays_of_every_make_are_taken():
    pixels = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    labels = np.array([0, 1, 0, 1])
    expected = torch.from_numpy(pixels)
    for images in (pixels.astype(">f4"), pixels.astype(np.longdouble), expected.requires_grad_(),
                   pixels[:, ::-1][:, ::-1], np.asfortranarray(pixels)):  # fmt: skip
        for own in (labels, labels.astype(">i4"), labels[::-1][::-1], torch.from_numpy(labels)):
            data = ImageArrays(images, own)
            assert torch.equal(data.images, expected)
            assert data.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(ImageArrays(pixels[:, ::-1], labels).images, expected.flip(1))
    half = expected.bfloat16()
    assert torch.equal(ImageArrays(half, labels).images, half.float())
    signed = torch.randint(0, 100, (4, 3, 8, 8), dtype=torch.int8)
    assert torch.equal(ImageArrays(signed, labels).images, signed.to(torch.uint8))
