"""Features on disk: equal to those of one run, whatever ended it, and never of something else."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from probcl.evaluation import cached_features, features

IMAGES = torch.randint(256, (600, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()


class Encoder(nn.Module):
    """Count the images that it is called with; raise at one of the calls."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.linear = nn.Linear(48, 5)
        self.dropout = nn.Dropout(0.5)
        self.rows, self.calls, self.fails_at = [], 0, fails_at
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, images):
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        assert not torch.is_grad_enabled()
        self.calls += 1
        self.rows.append(len(images))
        return self.dropout(self.linear(images.flatten(1)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "features.npy"


@pytest.fixture
def expected():
    encoder = Encoder().eval()
    with torch.no_grad():
        return torch.cat([encoder(part.float() / 255) for part in IMAGES.split(256)]).numpy()


def cached(encoder, path, images=IMAGES, **options):
    return cached_features(encoder, images, path, progress=False, **options)


def test_a_second_run_encodes_nothing(path, expected):
    encoder = Encoder()
    first = cached(encoder, path)
    assert encoder.rows == [256, 256, 88]
    assert encoder.training and encoder.dropout.training
    assert isinstance(first, np.memmap) and not first.flags.writeable
    assert first.dtype == np.float32
    assert np.array_equal(first, expected) and np.array_equal(np.load(path), expected)
    again = Encoder(fails_at=0)
    assert np.array_equal(cached(again, path), expected)
    assert not again.calls


@pytest.mark.parametrize(("fails_at", "left"), [(0, 600), (1, 344), (2, 88)])
def test_a_killed_run_goes_on_where_it_was(path, expected, fails_at, left):
    with pytest.raises(KeyboardInterrupt):
        cached(Encoder(fails_at=fails_at), path)
    encoder = Encoder()
    assert np.array_equal(cached(encoder, path), expected)
    assert sum(encoder.rows) == left


def test_a_run_killed_as_it_makes_the_file_goes_on(path, expected, monkeypatch):
    make = np.lib.format.open_memmap

    def killed(path, mode, *args):
        made = make(path, mode, *args)
        if mode == "w+":
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(np.lib.format, "open_memmap", killed)
    with pytest.raises(KeyboardInterrupt):
        cached(Encoder(), path)
    monkeypatch.undo()
    assert path.exists()
    assert np.array_equal(cached(Encoder(), path), expected)


@pytest.mark.parametrize("writes", range(4))
def test_a_run_that_is_killed_before_it_writes_a_record_goes_on(
    path, expected, monkeypatch, writes
):
    write, written = features.write_whole, []

    def killed(*args):
        if len(written) == writes:
            raise KeyboardInterrupt
        written.append(args)
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(features, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(Encoder(), path)
    encoder = Encoder()
    assert np.array_equal(cached(encoder, path), expected)
    assert sum(encoder.rows) == 600 - 256 * max(writes - 1, 0)


def test_batches_are_no_larger_than_asked_for(path, expected):
    encoder = Encoder()
    features = cached(encoder, path, batch_size=100)
    assert encoder.rows == [100, 100, 56, 100, 100, 56, 88]
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def damage_a_row(path):
    content = bytearray(path.read_bytes())
    content[-4 * 5 * 100] ^= 1  # within the second block
    path.write_bytes(content)


def damage_the_header(path):
    content = bytearray(path.read_bytes())
    content[0] = 0
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (damage_a_row, 256),
        (damage_the_header, 600),
        (lambda path: os.truncate(path, 2000), 600),
        (lambda path: os.truncate(path, 0), 600),
        (os.remove, 600),
    ],
    ids=["a row", "the header", "cut off", "empty", "gone"],
)
def test_what_is_damaged_is_encoded_again(path, expected, damage, left):
    cached(Encoder(), path)
    damage(path)
    encoder = Encoder()
    assert np.array_equal(cached(encoder, path), expected)
    assert sum(encoder.rows) == left


def other_encoder():
    encoder = Encoder()
    with torch.no_grad():
        encoder.linear.bias[0] += 1
    return encoder


def other_kind():
    encoder = Encoder()
    encoder.dropout = nn.ReLU()
    return encoder


def other_buffer():
    encoder = Encoder()
    encoder.register_buffer("mean", torch.ones(3), persistent=False)
    return encoder


OTHER = IMAGES.clone()
OTHER[0] += 1


@pytest.mark.parametrize(
    ("make", "images", "message"),
    [
        (other_encoder, IMAGES, "of another encoder"),
        (other_kind, IMAGES, "of another encoder"),
        (other_buffer, IMAGES, "of another encoder"),
        (Encoder, IMAGES[:-1], "of 600 images, not of 599"),
        (Encoder, IMAGES[:, :, :2], "of images of 3 x 4 x 4 of uint8, not of 3 x 2 x 4 of uint8"),
        (Encoder, OTHER, "of other images, or of such as change at random"),
    ],
)
def test_features_of_something_else_are_refused(path, make, images, message):
    before = cached(Encoder(), path).copy()
    with pytest.raises(ValueError, match=rf"holds features {message}: choose another name"):
        cached(make(), path, images)
    assert np.array_equal(np.load(path), before)


def test_settings_that_no_weight_tells_are_of_the_encoder(path):
    near, far = (nn.Sequential(nn.AvgPool2d(2, stride), nn.Flatten()) for stride in (1, 2))
    cached(near, path)
    with pytest.raises(ValueError, match="holds features of another encoder"):
        cached(far, path)


def test_lazy_layers_take_their_sizes(path):
    encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.Dropout())
    features = cached(encoder, path)
    with torch.no_grad():
        expected = encoder.eval()(IMAGES[:256] / 255).numpy()
    assert np.array_equal(features[:256], expected)


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    np.save(tmp_path / "mine.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"mine.npy is there, without mine.npy.json"):
        cached(Encoder(), tmp_path / "mine.npy")
    assert np.load(tmp_path / "mine.npy").tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"dim": 5, "crc32": []}', "\xff"])
def test_a_damaged_record_is_named(path, content):
    cached(Encoder(), path)
    path.with_name("features.npy.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"features.npy.json is damaged: delete it, and features"):
        cached(Encoder(), path)


def test_a_record_of_wrong_checksums_costs_only_time(path, expected):
    cached(Encoder(), path)
    record = path.with_name("features.npy.json")
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"crc32": ["x", None, about["crc32"][2]]}))
    encoder = Encoder()
    assert np.array_equal(cached(encoder, path), expected)
    assert sum(encoder.rows) == 512


def test_features_that_are_not_finite_are_named_by_row(path):
    images = IMAGES / 255
    images[300, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite features, those of image 300 are not"):
        cached(Encoder(), path, images)
    encoder = Encoder()
    with pytest.raises(ValueError, match="image 300"):
        cached(encoder, path, images)
    assert encoder.calls == 1  # the block before it is kept


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.numpy(),
        list(IMAGES),
        [(image, 0) for image in IMAGES],
        [(as_pil(image), 0) for image in IMAGES],
        [image.permute(1, 2, 0).numpy() for image in IMAGES],
    ],
    ids=["array", "tensors", "pairs", "PIL", "arrays"],
)
def test_every_form_of_the_images_gives_the_same(path, expected, images):
    assert np.array_equal(cached(Encoder(), path, images), expected)


@pytest.mark.parametrize(
    ("images", "encoder", "message"),
    [
        (IMAGES[:0], nn.Flatten(), "the number of images must be at least 1, got 0"),
        (["a.png"], nn.Flatten(), r"images must hold images, .* row 0 does not"),
        ([()], nn.Flatten(), r"images must hold images, .* row 0 does not"),
        ([torch.rand(1, 2, 2), torch.rand(1, 2, 3)], nn.Flatten(), "one size, got 1 x 2 x 2 of f"),
        (IMAGES, nn.Identity(), r"images to features of shape \(256, F\), got \(256, 3, 4, 4\)"),
        (IMAGES, nn.Flatten(0), r"of shape \(256, F\), got \(12288,\)"),
    ],
)
def test_bad_input_is_named(path, images, encoder, message):
    with pytest.raises(ValueError, match=message):
        cached(encoder, path, images)


def test_bad_arguments_are_named(path):
    with pytest.raises(ValueError, match=r"path must end in .npy, got features.npz"):
        cached(Encoder(), "features.npz")
    with pytest.raises(ValueError, match="batch_size must be from 1 to 256, got 0"):
        cached(Encoder(), path, batch_size=0)
