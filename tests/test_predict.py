"""What is said of pictures without labels: names, classes, posteriors and scores, one row each."""

import numpy as np
import pytest
from PIL import Image

from probcl.cli import main
from probcl.data import load_digits
from probcl.evaluation import SCORES, predict

QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of some of the test images, a file that is no picture, and a broken one."""
    monkeypatch.chdir(tmp_path)
    images = (load_digits()[1].images[:6, 0] * 255).round().byte().numpy()
    for number, image in enumerate(images):
        path = tmp_path / "photos" / ("deep" if number == 5 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "photos" / "broken.png").write_bytes(path.read_bytes()[:40])
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    return tmp_path / "photos"


NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png", "deep/5.png"]


def test_a_flat_folder_has_a_row_for_each_picture(trained, pictures, capsys):
    checkpoint = f"--ckpt_path={trained / 'checkpoints/last.ckpt'}"
    main(["predict", checkpoint, QUIET, "--images=photos", "--run_dir=out"])
    told = capsys.readouterr().out.replace("\n", "")
    assert "left out 1 files that cannot be read: " in told
    with np.load("out/predictions.npz") as file:
        found = dict(file)
    assert found["name"].tolist() == NAMES
    assert {len(values) for values in found.values()} == {6}
    assert found["posterior_loc"].shape == (6, 128)
    for name in ("probability", "entropy", "mean_resultant_length"):
        assert np.isfinite(found[name]).all()
    scores = {name.removeprefix("score_") for name in found if name.startswith("score_")}
    assert scores == {name for name in SCORES if "gate" not in SCORES[name].needs}
    assert set(found["class"]) <= set(range(10))
    # The same images in the test set have the same embeddings.
    main(["predict", checkpoint, QUIET, "--run_dir=all"])
    with np.load("all/embeddings.npz") as file:
        test = file["split"] == "test"
        np.testing.assert_allclose(
            found["embedding"], file["embedding"][test][:6], atol=2e-3
        )  # bytes


def test_parquet_holds_the_same(trained, pictures):
    parquet = pytest.importorskip("pyarrow.parquet")
    checkpoint = f"--ckpt_path={trained / 'checkpoints/last.ckpt'}"
    for suffix in ("npz", "parquet"):
        output = f"--output=said.{suffix}"
        main(["predict", checkpoint, QUIET, "--images=photos", output, f"--run_dir={suffix}"])
    table = parquet.read_table("said.parquet").to_pydict()
    with np.load("said.npz") as file:
        assert table.keys() == set(file)
        for name, values in table.items():
            assert np.array_equal(np.array(values, file[name].dtype), file[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images=nowhere"], "images: there is no folder nowhere"),
        (["--images=empty"], "images: empty holds no image files"),
        (["--images=photos", "--output=a.csv"], "output must end in .npz or .parquet, got a.csv"),
        (["--images=large"], "images must be of 8x8 pixels, as those trained on, got 9x9"),
    ],
)
def test_bad_input_is_one_sentence(trained, pictures, tmp_path, options, message):
    for name, size in (("empty", 0), ("large", 9)):
        (tmp_path / name).mkdir()
        if size:
            Image.new("L", (size, size)).save(tmp_path / name / "a.png")
    checkpoint = f"--ckpt_path={trained / 'checkpoints/last.ckpt'}"
    with pytest.raises(SystemExit, match=message):
        main(["predict", checkpoint, QUIET, "--run_dir=out", *options])
    assert not (tmp_path / "out").exists()


def test_other_subcommands_take_no_pictures(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--images=photos"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --images=photos" in capsys.readouterr().err


def test_unknown_scores_are_named():
    z = np.eye(4)
    with pytest.raises(ValueError, match="scores has no 'certainty': choose among entropy"):
        predict(z, [0, 0, 1, 1], z, scores=["certainty"])


def test_what_is_asked_for_must_be_there_and_fit():
    """As for evaluate, whose checks these are."""
    z = np.eye(4)
    with pytest.raises(ValueError, match=r"scores: 'agreement' needs labels of two classes"):
        predict(z, None, z, scores=["agreement"])
    with pytest.raises(ValueError, match=r"new must have an embedding of 4 numbers, as train"):
        predict(z, [0, 0, 1, 1], np.eye(3))
