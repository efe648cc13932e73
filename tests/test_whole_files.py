"""A file is whole, or it is the one that was there before: on any file system, whatever fails."""

import os

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from probcl.files import read_tensors, replacing, write_tensors
from probcl.training.checkpoint_io import WholeCheckpointIO


def test_what_was_there_stays_until_the_new_file_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")
    synchronised = []
    monkeypatch.setattr(os, "fsync", lambda number: synchronised.append(os.fstat(number).st_ino))
    with replacing(path) as partial:
        partial.write_text("after")
        assert partial.parent == path.parent  # of one file system, so that a renaming suffices
        assert path.read_text() == "before"
        inode = partial.stat().st_ino
    assert path.read_text() == "after"
    assert synchronised == [inode, tmp_path.stat().st_ino]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writing_that_fails_changes_nothing(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("before")

    def fail():
        with replacing(path) as partial:
            partial.write_text("af")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_holds_no_code(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"made": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="of weights and numbers alone"):
        WholeCheckpointIO().load_checkpoint(path)
    assert WholeCheckpointIO().load_checkpoint(path, weights_only=False)["made"].in_features == 1


def test_any_trainer_may_use_it(tmp_path):
    trainer = Trainer(plugins=[WholeCheckpointIO()], logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_with_their_words(tmp_path, dtype):
    tensors = {"a": torch.ones(3, 2, dtype=dtype).T, "b": torch.zeros((), dtype=dtype)}
    write_tensors(tmp_path / "file", tensors, {"who": "me"})
    back, about = read_tensors(tmp_path / "file")
    assert about["who"] == "me"
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == dtype


def test_one_item_of_a_wide_stride_is_written_too(tmp_path):
    one = torch.arange(2.0)[::2]
    write_tensors(tmp_path / "file", {"one": one})
    assert torch.equal(read_tensors(tmp_path / "file")[0]["one"], one)


def test_a_checkpoint_elsewhere_has_weights_alone_too(monkeypatch):
    asked = []
    monkeypatch.setattr(
        TorchCheckpointIO, "load_checkpoint", lambda self, *args, **options: asked.append(args)
    )
    for given in (None, True, False):
        WholeCheckpointIO().load_checkpoint("https://example.com/last.ckpt", "cpu", given)
    assert [args[-1] for args in asked] == [True, True, False]
