"""Named data sets, from small stand-ins in the formats of the real files."""

import gzip
import hashlib
import io
import itertools
import os
import pickle
import re
import shutil
import tarfile
import urllib.request
import zipfile
from functools import cache
from importlib.resources import files
from inspect import signature
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets import imagenet

from probcl.data import DATASETS, named

DATA = Path(os.environ.get("PROBCL_DATA", Path(__file__).parents[3] / "shared" / "data"))
FASHION = DATA / "FashionMNIST"
WNIDS = [f"n{number:08d}" for number in range(1000)]


@pytest.mark.parametrize("name", DATASETS)
def test_rows_of_the_table(name):
    source = DATASETS[name]
    options = signature(source.read).parameters
    assert [*options][:2] == ["root", "download"]
    assert ("unreadable" in options) == (not source.in_memory)
    images = torch.rand(2, 1 if "grey" in source.meaning else 3, 30, 30)
    views = source.augmentation()(images)
    assert views.shape[:2] == images.shape[:2]


def test_digits_need_no_files(tmp_path):
    train, test = read("Digits", tmp_path / "none", download=True)
    assert (len(train), len(test)) == (1437, 360)


def read(name, root, download=False, **options):
    return DATASETS[name].read(root, download, **options)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def jpeg():
    file = io.BytesIO()
    Image.fromarray(pixels(0, 4, 4, 3)).save(file, "JPEG")
    return file.getvalue()


JPEG = jpeg()


@pytest.mark.parametrize(
    ("kind", "key"), [(datasets.CIFAR10, "labels"), (datasets.CIFAR100, "fine_labels")]
)
def test_cifar(tmp_path, monkeypatch, kind, key):
    expected = {}
    for field in ("train_list", "test_list"):
        checked = []
        for name, _ in getattr(kind, field):
            images = pixels(len(expected), 4, 3072)
            labels = [len(expected) % 5, 1, 2, 3]
            content = pickle.dumps({"data": images, key: labels}, protocol=2)
            put(tmp_path / kind.base_folder / name, content)
            checked.append([name, md5(content)])
            expected[name] = (images.reshape(-1, 3, 32, 32), labels)
        monkeypatch.setattr(kind, field, checked)
    names = {kind.meta["key"]: list("abcde")}
    meta = put(tmp_path / kind.base_folder / kind.meta["filename"], pickle.dumps(names))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})

    train, test = read(kind.__name__, tmp_path)
    *parts, last = expected.values()
    assert np.array_equal(train.images, np.concatenate([images for images, _ in parts]))
    assert train.labels.tolist() == [label for _, labels in parts for label in labels]
    assert np.array_equal(test.images, last[0])
    assert test.labels.tolist() == last[1]
    assert train.classes == list("abcde")

    with (tmp_path / kind.base_folder / name).open("ab") as file:
        file.write(b"one byte too many")
    with pytest.raises(ValueError, match=r"whole and undamaged: .* or set download to True"):
        read(kind.__name__, tmp_path)


def idx(array):
    """Return the content of an idx file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Small idx files, compressed, and their content by name."""
    contents = {}
    for part, count in (("train", 6), ("t10k", 4)):
        contents[f"{part}-images-idx3-ubyte"] = pixels(count, count, 28, 28)
        contents[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8)
    checked = []
    for name, array in contents.items():
        content = put(tmp_path / "MNIST" / "raw" / f"{name}.gz", gzip.compress(idx(array)))
        checked.append((f"{name}.gz", md5(content)))
    monkeypatch.setattr(datasets.MNIST, "resources", checked)
    return tmp_path, contents


def test_mnist(mnist):
    root, contents = mnist
    with pytest.raises(ValueError, match=r"does not hold MNIST, .* set download to True"):
        read("MNIST", root)  # compressed files only
    read("MNIST", root, download=True)
    train, test = read("MNIST", str(root))
    assert np.array_equal(train.images[:, 0], contents["train-images-idx3-ubyte"])
    assert np.array_equal(test.images[:, 0], contents["t10k-images-idx3-ubyte"])
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", [b"", b"text, not numbers", idx(pixels(0, 6, 28, 28))[:-9]])
def test_a_damaged_idx_file_is_refused(mnist, damage):
    root, _ = mnist
    read("MNIST", root, download=True)
    put(root / "MNIST" / "raw" / "train-images-idx3-ubyte", damage)
    with pytest.raises(ValueError, match="does not hold MNIST, whole and undamaged"):
        read("MNIST", root)
    with pytest.raises(ValueError, match="delete what is damaged there"):
        read("MNIST", root, download=True)


@pytest.mark.skipif(not FASHION.is_dir(), reason="PROBCL_DATA has no FashionMNIST")
def test_fashion_mnist_is_the_original(tmp_path):
    shutil.copytree(FASHION / "raw", tmp_path / "FashionMNIST" / "raw")
    for part, name in zip(read("FashionMNIST", tmp_path, True), ("train", "t10k"), strict=True):
        raw = (FASHION / "raw" / f"{name}-images-idx3-ubyte.gz").read_bytes()
        original = np.frombuffer(gzip.decompress(raw), np.uint8)[16:].reshape(-1, 1, 28, 28)
        assert np.array_equal(part.images, original)
        assert part.labels.bincount().tolist() == [len(original) // 10] * 10


def test_stl10(tmp_path, monkeypatch):
    arrays = {
        "train_X.bin": pixels(0, 5, 3, 96, 96),
        "train_y.bin": np.array([1, 10, 2, 3, 4], np.uint8),
        "unlabeled_X.bin": pixels(1, 7, 3, 96, 96),
        "test_X.bin": pixels(2, 3, 3, 96, 96),
        "test_y.bin": np.array([2, 1, 10], np.uint8),
    }
    for name, array in arrays.items():
        put(tmp_path / "stl10_binary" / name, array.tobytes())
    for field in ("train_list", "test_list"):
        names = [name for name, _ in getattr(datasets.STL10, field)]
        checked = [[name, md5(arrays[name].tobytes())] for name in names]
        monkeypatch.setattr(datasets.STL10, field, checked)
    parts = read("STL10", tmp_path, unlabelled=True)
    for part, name in zip(parts, ("train", "test", "unlabeled"), strict=True):
        # The files hold columns before rows.
        assert np.array_equal(part.images, arrays[f"{name}_X.bin"].swapaxes(2, 3))
    assert parts[0].labels.tolist() == [0, 9, 1, 2, 3]
    assert parts[1].labels.tolist() == [1, 0, 9]
    assert parts[2].labels is None


@pytest.fixture
def tiny(tmp_path):
    """Tiny-ImageNet with one image to train and one to validate of each class."""
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(WNIDS[:200]):
        put(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", JPEG)
        put(folder / "val" / "images" / f"val_{number}.JPEG", JPEG)
        lines.append(f"val_{number}.JPEG\t{WNIDS[199 - number]}\t0\t0\t62\t62\n")
    put(folder / "val" / "val_annotations.txt", "".join(lines).encode())
    return tmp_path


def test_tiny_imagenet(tiny):
    train, test = read("TinyImageNet", tiny, unreadable="skip")
    assert train.labels.tolist() == list(range(200))
    assert test.labels.tolist() == list(range(199, -1, -1))
    assert all(
        WNIDS[label].encode() in path for path, label in zip(train.paths, train.labels, strict=True)
    )
    assert test.paths[7].endswith(b"val/images/val_7.JPEG")
    assert train[0][0].size == (4, 4)
    assert (train.unreadable, test.unreadable) == ("skip", "skip")


def test_tiny_imagenet_is_unpacked_from_the_archive_of_its_checksum(tiny, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    with zipfile.ZipFile(other / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted((tiny / "tiny-imagenet-200").rglob("*")):
            archive.write(path, path.relative_to(tiny))
    content = (other / "tiny-imagenet-200.zip").read_bytes()
    monkeypatch.setitem(named._TINY_IMAGENET, "md5", md5(content))
    train, test = read("TinyImageNet", other, download=True)
    assert (len(train), len(test)) == (200, 200)


def test_a_tiny_imagenet_that_is_not_whole_is_refused(tiny):
    folder = tiny / "tiny-imagenet-200"
    with (folder / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_0.JPEG\tn99999999\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match=r"n99999999.* names no image or no class"):
        read("TinyImageNet", tiny)
    shutil.rmtree(folder / "train" / WNIDS[3])
    with pytest.raises(ValueError, match="train has 199 class folders in place of 200"):
        read("TinyImageNet", tiny)


def test_caltech256_is_split_within_each_class(tmp_path):
    folder = tmp_path / "caltech256" / "256_ObjectCategories"
    counts = {}
    for number in range(1, 258):
        name = "257.clutter" if number == 257 else f"{number:03d}.thing"
        counts[name] = 80 if number == 2 else 61 + number % 2
        for row in range(1, counts[name] + 1):
            put(folder / name / f"{number:03d}_{row:04d}.jpg", JPEG)
    put(folder / "056.thing" / "greg" / "vision.jpg", JPEG)  # no part of its class
    put(folder / "198.thing" / "RENAME2", b"")
    train, test = read("Caltech256", tmp_path)
    assert torch.equal(train.labels.bincount(), torch.full((256,), 60))
    assert test.labels.bincount().tolist() == [count - 60 for count in list(counts.values())[:-1]]
    every = np.concatenate([train.paths, test.paths])
    expected = [path for path in folder.glob("*/*.jpg") if path.parent.name != "257.clutter"]
    assert sorted(every) == sorted(map(os.fsencode, expected))
    for path, label in zip(every, [*train.labels, *test.labels], strict=True):
        assert int(Path(os.fsdecode(path)).parent.name[:3]) == label + 1
    # The split is the same for ever: the images of the second class that are left to test.
    rows = [int(path[-8:-4]) for path in test.paths[test.labels == 1]]
    assert rows == [1, 2, 5, 6, 12, 13, 15, 18, 32, 36, 39, 42, 43, 47, 54, 58, 59, 66, 69, 70]
    shutil.rmtree(folder / "257.clutter")
    with pytest.raises(ValueError, match="has 256 class folders in place of 257"):
        read("Caltech256", tmp_path)


def tar(contents, mode="w"):
    """Return an archive of files, by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@cache
def imagenet_archives():
    """The three archives of ImageNet, with one image of each class to train and to validate."""
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss")]
    kinds += [(name, object) for name in ("num_children", "wordnet_height", "num_train_images")]
    synsets = [
        (number + 1, wnid, f"{wnid}, thing", "", 0, 0, 1) for number, wnid in enumerate(WNIDS)
    ]
    synsets.append((1001, "n99999999", "everything", "", 1000, 1, 0))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(synsets, kinds)[:, None]})
    truth = np.random.default_rng(0).permutation(1000)
    folder = "ILSVRC2012_devkit_t12/data"
    contents = {
        "devkit": tar(
            {
                f"{folder}/meta.mat": meta.getvalue(),
                f"{folder}/ILSVRC2012_validation_ground_truth.txt": "".join(
                    f"{number + 1}\n" for number in truth
                ).encode(),
            },
            "w:gz",
        ),
        "train": tar({f"{wnid}.tar": tar({f"{wnid}_1.JPEG": JPEG}) for wnid in WNIDS}),
        "val": tar({f"ILSVRC2012_val_{row + 1:08d}.JPEG": JPEG for row in range(1000)}),
    }
    return contents, truth


@pytest.fixture
def archives(tmp_path, monkeypatch):
    contents, truth = imagenet_archives()
    for part, (name, _) in imagenet.ARCHIVE_META.items():
        content = put(tmp_path / name, contents[part])
        monkeypatch.setitem(imagenet.ARCHIVE_META, part, (name, md5(content)))
    return tmp_path, truth


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")  # torchvision's own
def test_imagenet_is_unpacked_and_numbered_by_id(archives):
    root, truth = archives
    train, test = read("ImageNet", root)
    assert train.labels.tolist() == list(range(1000))
    for path, label in zip(train.paths, train.labels, strict=True):
        assert path.endswith(f"train/{WNIDS[label]}/{WNIDS[label]}_1.JPEG".encode())
    for path, label in zip(test.paths, test.labels, strict=True):
        assert truth[int(path[-13:-5]) - 1] == label
    shutil.rmtree(root / "val" / WNIDS[5])
    with pytest.raises(ValueError, match=f"val/{WNIDS[5]} holds no image files .* or is not there"):
        read("ImageNet", root)
    shutil.rmtree(root / "train" / WNIDS[5])
    with pytest.raises(ValueError, match="train has 999 class folders in place of 1000"):
        read("ImageNet", root)


@pytest.mark.parametrize("part", ["devkit", "train"])
def test_an_archive_of_imagenet_that_is_damaged_is_refused(archives, part):
    root, _ = archives
    name = imagenet.ARCHIVE_META[part][0]
    put(root / name, (root / name).read_bytes()[:-1])
    with pytest.raises(
        ValueError, match="no folder train, and archives of ImageNet are missing or"
    ):
        read("ImageNet", root)


def test_the_licence_and_the_archives_of_imagenet_are_named(tmp_path):
    for name, download in itertools.product(("ImageNet", "ImageNet100"), (False, True)):
        with pytest.raises(ValueError, match="licence") as caught:
            read(name, tmp_path, download)
        for word in (*(file for file, _ in imagenet.ARCHIVE_META.values()), str(tmp_path)):
            assert word in str(caught.value)


def test_imagenet100_has_the_classes_of_its_list(tmp_path):
    wnids = files("probcl.data").joinpath("imagenet100.txt").read_text().split()
    for wnid in [*wnids, "n00000001"]:
        put(tmp_path / "train" / wnid / "1.JPEG", JPEG)
        put(tmp_path / "val" / wnid / "2.JPEG", JPEG)
    for part in read("ImageNet100", tmp_path):
        assert part.labels.tolist() == list(range(100))
        found = [Path(os.fsdecode(path)).parent.name for path in part.paths]
        assert found == sorted(wnids)
    own = tmp_path / "own.txt"
    own.write_text(f"{wnids[9]}\nn00000001\n")
    assert [len(part) for part in read("ImageNet100", tmp_path, classes=own)] == [2, 2]
    own.write_text("n00000001\nn00000002\n")
    with pytest.raises(
        ValueError, match=r"train/n00000002 holds no image files .* or is not there"
    ):
        read("ImageNet100", tmp_path, classes=own)
    own.write_text("n00000001\n")
    with pytest.raises(ValueError, match=r"classes: .* names fewer than two classes"):
        read("ImageNet100", tmp_path, classes=own)
    with pytest.raises(ValueError, match=r"classes: cannot read .*none"):
        read("ImageNet100", tmp_path, classes=tmp_path / "none.txt")


def test_the_list_of_imagenet100_is_that_of_its_authors():
    content = files("probcl.data").joinpath("imagenet100.txt").read_bytes()
    assert re.fullmatch(rb"(n\d{8}\n){100}", content)
    assert len(set(content.split())) == 100
    # Of imagenet100.txt at revision bc687a2 of github.com/HobbitLong/CMC.
    expected = "79f3f1552ccc478ce24bd934b4573625db584ddc1f4643ae23c994a94cb11397"
    assert hashlib.sha256(content).hexdigest() == expected


DOWNLOADED = ["CIFAR10", "CIFAR100", "Caltech256", "FashionMNIST", "MNIST", "STL10", "TinyImageNet"]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_what_is_not_there_is_refused_with_the_option_that_downloads_it(tmp_path, name):
    root = tmp_path / "data"
    with pytest.raises(
        ValueError, match=f"root: {re.escape(str(root))} does not hold .*"
    ) as caught:
        read(name, root)
    assert str(caught.value).endswith("set download to True.")
    assert not root.exists()


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_that_fails_is_one_sentence(tmp_path, monkeypatch, name):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        ValueError, match=r"could not be downloaded to .*no route to host"
    ) as caught:
        read(name, tmp_path, download=True)
    assert "\n" not in str(caught.value)
