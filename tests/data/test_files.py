"""Images in files: the pixels, the numbers of the classes, and what happens to a bad file."""

import io
import os
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from probcl.data import ImageFiles, read_folder
from probcl.data.datasets import FORMATS, decode_image
from probcl.data.views import CroppedViews, collate_views, read_into_memory

KINDS = {"RGB": (3,), "L": (), "RGBA": (4,)}


def image(path, seed=0, mode="RGB", size=(12, 10)):
    """Write a random image of that width and height, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (*size[::-1], *KINDS[mode]), np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A tree of two parts and three classes, of which the test set has two."""
    names = ["train/cat/b.png", "train/cat/a.jpg", "train/ant/x.PNG", "train/emu/deep/y.jpeg"]
    for seed, name in enumerate([*names, "test/ant/1.png", "test/emu/2.png"]):
        image(tmp_path / name, seed)
    return tmp_path


def test_items_are_images_labels_and_rows(tmp_path):
    modes = ["RGB", "L", "RGBA"]
    paths = [image(tmp_path / f"{mode}.png", seed, mode) for seed, mode in enumerate(modes)]
    for channels, mode in ((3, "RGB"), (1, "L")):
        data = ImageFiles(paths, torch.tensor([2, 0, 1]), channels)
        for row, (found, label, index) in enumerate(data):
            assert (label, index) == ([2, 0, 1][row], row)
            assert found.mode == mode
            with Image.open(paths[row]) as expected:
                ground = Image.new("RGBA", expected.size, "white")
                ground.alpha_composite(expected.convert("RGBA"))
                assert np.array_equal(found, ground.convert(mode))


def test_a_folder_is_read_as_torchvision_reads_it(folder):
    train, test = read_folder(folder)
    expected = ImageFolder(folder / "train")
    assert train.labels.tolist() == expected.targets
    for (found, label, _), (other, target) in zip(train, expected, strict=True):
        assert label == target
        assert np.array_equal(found, other)
    assert test.labels.tolist() == [0, 2]  # numbered as in training: ant, cat, emu
    assert train.classes == test.classes == expected.classes


def test_val_stands_in_for_test(folder):
    (folder / "test").rename(folder / "val")
    train, test = read_folder(folder, channels=1)
    assert (len(train), len(test)) == (4, 2)
    assert test[1][0].mode == "L"
    image(folder / "test" / "ant" / "a.png")
    image(folder / "test" / "cat" / "a.png")
    assert read_folder(folder)[1].labels.tolist() == [0, 1]


def damaged(folder):
    good = image(folder / "good.jpg")
    contents = {"empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": good.read_bytes()[:-200]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [good, *(folder / name for name in contents)]


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    paths = damaged(tmp_path)
    data = ImageFiles(paths, [0, 1, 2, 3])
    assert data[0][0].size == (12, 10)
    for row in (1, 2, 3):
        with pytest.raises(ValueError, match=f"{re.escape(str(paths[row]))} cannot be decoded"):
            data[row]


def test_a_skipped_file_leaves_its_path(tmp_path):
    paths = damaged(tmp_path)
    first, *others = ImageFiles(paths, [3, 2, 1, 0], unreadable="skip")
    assert isinstance(first[0], Image.Image)
    assert others == [(str(path), 3 - row, row) for row, path in enumerate(paths) if row]


@pytest.mark.parametrize("unreadable", ["raise", "skip"])
def test_a_file_that_is_not_there_is_never_skipped(tmp_path, unreadable):
    data = ImageFiles([tmp_path / "a.png", tmp_path / "b.png"], [0, 1], 3, unreadable)
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        data[0]


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_no_damage_raises_anything_else(tmp_path, kind):
    content = image(tmp_path / f"good.{kind}").read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / f"bad.{kind}"
    data = ImageFiles([path, path], [0, 1], unreadable="skip")
    for _ in range(100):
        bad = bytearray(content)
        for place in random.integers(0, len(bad), 3):
            bad[place] = random.integers(256)
        path.write_bytes(bad[: random.integers(1, len(bad) + 1)])
        found, label, row = data[1]
        assert isinstance(found, Image.Image) or found == str(path)
        assert (label, row) == (1, 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what torch's loader does
def test_workers_return_the_same_items(folder):
    train, _ = read_folder(folder)
    loader = DataLoader(train, batch_size=3, num_workers=2, collate_fn=list)
    items = [item for batch in loader for item in batch]
    for (found, *rest), (expected, *others) in zip(items, train, strict=True):
        assert rest == others
        assert np.array_equal(found, expected)


def test_a_copy_for_a_worker_is_no_longer_than_the_names():
    paths = [f"/data/train/n01440764/n01440764_{row:06d}.JPEG" for row in range(100_000)]
    data = ImageFiles(paths, np.arange(100_000) % 1000)
    copy = pickle.dumps(data)
    assert len(copy) < 100_000 * (len(paths[0]) + 8) + 2000
    assert np.array_equal(pickle.loads(copy).paths, data.paths)


def test_names_need_not_be_ascii(tmp_path):
    paths = [image(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("é 猫", "ü"))]
    assert ImageFiles(paths, [0, 1])[0][0].size == (12, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": []}, "paths must name at least one image file"),
        ({"labels": [0, 1, 1]}, "labels must have a row for each of the 2 items, got 3"),
        ({"labels": [0, 0]}, "labels must hold at least two classes"),
        ({"labels": [0.0, 1.0]}, "labels must be integers, the classes"),
        ({"channels": 4}, r"channels must be 1 \(grey\) or 3 \(colour\), got 4"),
        ({"unreadable": "drop"}, "unreadable must be 'raise' or 'skip', got 'drop'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageFiles(**({"paths": ["a.png", "b.png"], "labels": [0, 1]} | arguments))


def test_bad_folders_are_refused(folder):
    with pytest.raises(ValueError, match=r"path: there is no folder .*none"):
        read_folder(folder / "none")
    with pytest.raises(ValueError, match=r"train has no folder train: it needs the images as"):
        read_folder(folder / "train")
    (folder / "train" / "yak").mkdir()
    with pytest.raises(ValueError, match=r"train/yak holds no image files \(.jpg, .*fill it"):
        read_folder(folder)
    image(folder / "train" / "yak" / "a.png")
    image(folder / "test" / "zebu" / "a.png")
    with pytest.raises(ValueError, match=r"class 'zebu' of .*test is not in .*train"):
        read_folder(folder)
    (folder / "train" / "zebu").symlink_to(folder / "test" / "zebu")
    (folder / "test" / "cat").mkdir()
    with pytest.raises(ValueError, match="test/cat holds no image files"):
        read_folder(folder)
    (folder / "test").rename(folder / "spare")
    with pytest.raises(ValueError, match="has no folder test or val"):
        read_folder(folder)


def test_a_single_class_is_refused(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train has 0 class folders"):
        read_folder(tmp_path)
    image(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(ValueError, match=r"train has 1 class folders: .*two or more"):
        read_folder(tmp_path)


def test_hidden_files_and_folders_are_left_out(folder):
    image(folder / "train" / ".ipynb_checkpoints" / "x.jpg")
    image(folder / "train" / "cat" / ".ipynb_checkpoints" / "b.png")
    image(folder / "test" / "ant" / "._1.png")
    train, test = read_folder(folder)
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert test.labels.tolist() == [0, 2]


def test_every_kind_of_image_is_read_and_what_is_none_is_counted_and_named(folder):
    for number in range(3):
        image(folder / "train" / "yak" / f"{number}.gif", mode="L")
    image(folder / "train" / "yak" / "3.JPG")
    assert read_folder(folder)[0].labels.tolist() == [0, 1, 1, 2, 3, 3, 3, 3]
    (folder / "train" / "yak" / "4.heic").write_bytes(b"some")
    (folder / "test" / "ant" / "notes.txt").write_text("none")
    image(folder / "test" / "of_no_class.png")
    with pytest.warns(UserWarning, match=r"left out of .*: 3 that are no .* such as .*class\.png"):
        read_folder(folder)


def test_links_to_folders_are_not_followed_and_pipes_not_opened(folder):
    expected = [part.paths.tolist() for part in read_folder(folder)]
    (folder / "train" / "self").symlink_to(folder / "train")
    (folder / "train" / "up").symlink_to(folder)
    (folder / "train" / "itself").symlink_to(folder / "train" / "itself")
    (folder / "train" / "cat" / "itself.png").symlink_to(folder / "train" / "cat" / "itself.png")
    (folder / "train" / "cat" / "loop").symlink_to(folder / "train" / "cat")
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    with pytest.warns(UserWarning, match=r"6 that are no image files, such as .*train/itself; "):
        parts = read_folder(folder)
    assert [part.paths.tolist() for part in parts] == expected


def test_a_class_and_a_file_may_be_links(folder):
    image(folder / "elsewhere" / "a.png")
    (folder / "train" / "yak").symlink_to(folder / "elsewhere")
    (folder / "train" / "cat" / "c.png").symlink_to(folder / "elsewhere" / "a.png")
    assert read_folder(folder)[0].labels.tolist() == [0, 1, 1, 1, 2, 3]


def test_files_need_no_labels(tmp_path):
    paths = [image(tmp_path / f"{name}.png") for name in "ab"]
    data = ImageFiles(paths)
    assert data[1][1:] == (None, 1)
    batch = collate_views([CroppedViews(data, [v2.CenterCrop(8)])[row] for row in (0, 1)])
    assert batch.labels is None
    assert batch.rows.tolist() == [0, 1]
    images, unreadable = read_into_memory(data, v2.CenterCrop(8), num_workers=0)
    assert (len(images), images.labels, unreadable) == (2, None, [])


def view_of(item):
    """Return the one view, and the label, of an item of a user's data set."""
    views, label, _ = CroppedViews([item], [v2.Identity()])[0]
    return views[0], label


def view(*item):
    return view_of(item)


def test_items_may_hold_images_of_every_kind():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    expected = torch.from_numpy(pixels).movedim(-1, 0)
    palette = Image.fromarray(pixels).convert("P")
    for item, result in (
        (Image.fromarray(pixels), expected),
        (Image.fromarray(pixels).convert("RGBA"), expected),
        (palette, torch.from_numpy(np.array(palette.convert("RGB"))).movedim(-1, 0)),
        (pixels, expected),
        (expected, expected),
        (expected.long(), expected),
        (expected / 255, expected),
        (expected.double() / 255, expected),
    ):
        found, label = view(item, np.int64(3))
        assert torch.equal(found, result)
        assert label == 3
    assert view(pixels, torch.tensor(2))[1] == 2


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.full((3, 4, 4), -1.5), 0), r"row 0 .* must be in \[0, 1\], got .*normalisation"),
        ((torch.full((3, 4, 4), 256), 0), r"integers must be in 0\.\.255"),
        ((torch.full((3, 4, 4), float("nan")), 0), "images must be finite"),
        ((torch.rand(4), 0), "image at row 0 .* cannot be used"),
        ((torch.rand(32, 32, 3), 0), "transpose"),
        ((Image.new("I;16", (4, 4)), 0), "not of 8 bits"),
        (({"a": 1}, 0), "image at row 0 .* cannot be used"),
        ((torch.rand(3, 4, 4), 0.5), r"labels must be integers from 0, got 0\.5 at row 0"),
        ((torch.rand(3, 4, 4), -1), "labels must be integers from 0, got -1 at row 0"),
        ((torch.rand(3, 4, 4), "cat"), "labels must be integers from 0, got cat at row 0"),
    ],
)
def test_items_that_are_none_are_refused(item, message):
    with pytest.raises(ValueError, match=message):
        view(*item)


@pytest.mark.parametrize("names", [("image", "label"), ("img", "fine_label"), ("image", "labels")])
def test_items_may_have_named_columns(names):
    pixels = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    found, label = view_of(dict(zip(names, (pixels, 3), strict=True)) | {"id": "a"})
    assert torch.equal(found, pixels)
    assert label == 3


def test_columns_of_other_names_are_named():
    with pytest.raises(ValueError, match="columns image and label, got picture, label at row 0"):
        view_of({"picture": 1, "label": 2})


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_stand_upright_as_their_orientation_says(kind):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255  # on the top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    found = np.asarray(decode_image(encoded(Image.fromarray(pixels), kind, exif=exif)))
    assert found.shape == (24, 16, 3)
    assert found[:8, 8:].min() > 200  # now on the top right
    assert found[8:].max() < 50


def test_what_is_transparent_shows_white():
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2, :, 3] = 255  # black above, nothing below
    for picture in (Image.fromarray(clear), Image.fromarray(clear).convert("LA")):
        for mode in ("RGB", "L"):
            found = np.asarray(decode_image(encoded(picture, "PNG"), mode))
            assert (found[:2] == 0).all()
            assert (found[2:] == 255).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = np.asarray(decode_image(encoded(palette, "PNG", transparency=1)))
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_other_formats_are_not_decoded():
    picture = Image.new("RGB", (4, 4))
    for kind in FORMATS:
        assert decode_image(encoded(picture, kind)).size == (4, 4)
    for kind in ("TGA", "PCX", "ICO", "DDS", "EPS"):
        with pytest.raises(ValueError, match="no file of JPEG, PNG, GIF"):
            decode_image(encoded(picture, kind))


def test_the_limit_of_pixels_is_an_option(folder):
    assert read_folder(folder)[0][0][0].size
    with pytest.raises(ValueError, match="more than 10: shrink it, or raise max_pixels"):
        read_folder(folder, max_pixels=10)[0][0]


@pytest.mark.parametrize("item", [torch.rand(3, 4, 4), (1,)])
def test_items_that_are_no_pairs_are_refused(item):
    with pytest.raises(ValueError, match="must hold pairs of an image and its class, got"):
        CroppedViews([item], [v2.Identity()])[0]


@pytest.mark.parametrize("other", [(1, 8, 8), (3, 1, 8), (3, 9, 9)])
@pytest.mark.parametrize("first", [False, True])
def test_images_that_differ_are_named_wherever_they_are(other, first):
    sizes = [(3, 8, 8)] * 256 + [other] * 44
    items = [(torch.rand(size), n % 2) for n, size in enumerate(sizes[::-1] if first else sizes)]
    with pytest.raises(ValueError, match="images must all have"):
        read_into_memory(items, torch.nn.Identity(), num_workers=0)


def test_images_of_one_class_may_be_read_into_memory():
    items = [(torch.rand(3, 8, 8), 1) for _ in range(4)]  # as a set out of distribution may be
    images, _ = read_into_memory(items, torch.nn.Identity(), num_workers=0)
    assert images.labels.tolist() == [1] * 4
