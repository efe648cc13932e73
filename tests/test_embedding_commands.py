"""The commands ``posterior`` and ``evaluate``, on files of every kind, and their bad input."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from probcl import embedding_commands
from probcl.cli import main
from probcl.embedding_files import number_labels, read_embeddings
from probcl.evaluation import evaluate, nearest
from probcl.programs import PostHoc, fit_posterior
from probcl.sphere import normalize

RANDOM = np.random.default_rng(0)
Y = np.arange(120) % 3
Z = (np.eye(8)[Y] + 0.4 * RANDOM.normal(size=(120, 8))).astype(np.float32)
NAMES = np.array(["ant", "bee", "cat"])[Y]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, and few steps of a fit."""
    monkeypatch.chdir(tmp_path)

    def quick(*args, **kwargs):
        return fit_posterior(*args, **kwargs, steps=10)

    monkeypatch.setattr(embedding_commands, "fit_posterior", quick)
    return tmp_path


@pytest.fixture
def no_report(monkeypatch):
    """Pictures take longest, and are tested elsewhere."""
    monkeypatch.setattr(
        embedding_commands, "write_report", lambda found, path, run_dir, match: path
    )


def metrics(folder="out"):
    with open(f"{folder}/metrics.json") as file:
        return json.load(file)


def write_table(path, **columns):
    table = pytest.importorskip("pyarrow").table(columns)
    sys.modules["pyarrow.parquet"].write_table(table, path)


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet")


def test_numbers_that_are_missing_in_a_table_are_named(parquet, folder):
    table = sys.modules["pyarrow"]
    columns = {f"x{i}": table.array([1, 2, None if i == 3 else 3]) for i in range(4)}
    write_table("z.parquet", **columns, label=table.array([0, None, 1]))
    with pytest.raises(ValueError, match="must be finite, row 2 is not"):
        read_embeddings("z.parquet")
    columns["x3"] = columns["x0"]
    write_table("z.parquet", **columns, label=table.array([0, None, 1]))
    assert read_embeddings("z.parquet").labels.tolist() == [0, -1, 1]  # a class not known


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 1e25, 2e25]), np.array([0, 1, 2**64 - 1], dtype=np.uint64)]
)
def test_labels_beyond_what_is_told_apart_are_named(labels, folder):
    np.savez("z.npz", embedding=np.eye(3), label=labels)
    with pytest.raises(ValueError, match=r"labels in z.npz must be at most.*np.unique"):
        read_embeddings("z.npz")


def test_there_may_be_more_classes_than_a_configuration_holds(folder):
    y = np.arange(1400) % 700
    z = np.random.default_rng(0).normal(size=(700, 8))[y]
    z = z + 0.1 * np.random.default_rng(1).normal(size=z.shape)
    np.savez("z.npz", embedding=z, label=np.array([f"class {i} {'x' * 400}" for i in y]))
    main(["evaluate", "z.npz", "--output", "out"])
    assert len(json.loads((folder / "out/classes.json").read_text())) == 700
    assert (folder / "out/report.html").exists()


def test_posterior_fits_evaluates_and_saves(folder, capsys):
    np.savez("z.npz", embedding=Z, label=NAMES)
    main(["posterior", "z.npz", "--output", "out"])
    told = capsys.readouterr().out
    assert "match likelihood of 87 items, 9 held out" in told
    assert "agreement" in told and "report: out/report.html" in told
    assert "svg+xml" in (folder / "out/report.html").read_text()
    found = metrics()
    assert found["unc/retrieval_error/entropy"] >= 0 and found["time/fit_s"] > 0
    assert found["unc/ambiguity/gate"] >= 0 and "gated_resultant_length" in told
    report = (folder / "out/report.html").read_text()
    assert "match/nll" in report and "match/nll" in told and "its five nearest" in report
    about = yaml.safe_load((folder / "out/config.yaml").read_text())
    assert json.loads((folder / "out/classes.json").read_text()) == ["ant", "bee", "cat"]
    assert about["items"] == {"train": 96, "test": 24}
    posterior = PostHoc.from_pretrained("out/posterior")
    assert torch.equal(posterior(Z).mean_direction, posterior.embed(Z).direction)
    assert posterior.fit.items == 87
    test = embedding_commands._test_rows(embedding_commands.Items(Z, Y), seed=0)
    bank = posterior.posterior_head.bank
    near = nearest(normalize(torch.tensor(Z[test])), bank.embedding, 5)
    with torch.no_grad():
        length = posterior(Z[test]).mean_resultant_length[:, None] * bank.length[near.row]
        p = (length * posterior.posterior_head.link(near.cosine)).numpy()
    truth = bank.labels[near.row].numpy() == Y[test][:, None]
    loss = -np.log(np.where(truth, p, 1 - p).clip(1e-4)).mean()
    assert found["match/nll"] == pytest.approx(loss, rel=1e-4)
    assert 0 <= found["match/ece"] <= 1


def test_evaluate_gives_the_numbers_of_the_function(no_report):
    np.savez("train.npz", embedding=Z[:80], label=Y[:80])
    np.savez("test.npz", embeddings=Z[80:], labels=Y[80:])
    main(["evaluate", "train.npz", "--test", "test.npz", "--output", "out"])
    expected = evaluate(Z[:80], Y[:80], Z[80:], Y[80:]).metrics
    found = metrics()
    del found["time/evaluate_s"]
    assert found == pytest.approx(expected)


def test_without_labels_neighbours_are_the_likelihood(no_report, capsys):
    np.save("z.npy", Z)
    main(["posterior", "z.npy", "--output", "out"])
    assert "neighbours likelihood" in capsys.readouterr().out
    assert "probe/top1" not in metrics() and "collapse/effective_rank" in metrics()
    assert "match/nll" not in metrics()
    main(["evaluate", "z.npy", "--output", "other"])
    assert "collapse/effective_rank" in metrics("other")


def test_a_report_of_damaged_files_names_the_one(folder):
    np.savez("z.npz", embedding=Z, label=Y)
    main(["evaluate", "z.npz", "--output", "out"])
    for name, kind in (("classes", "list"), ("environment", "dict"), ("metrics", "dict")):
        file = Path(f"out/{name}.json")
        before = file.read_text()
        file.write_text("3")
        with pytest.raises(SystemExit, match=f"{name}.json must hold a {kind}, got int"):
            main(["report", "out"])
        file.write_text(before)


def test_the_classes_of_test_items_may_lie_in_a_file_too(no_report, capsys):
    np.save("z.npy", Z[:80])
    np.save("y.npy", Y[:80])
    np.save("new.NPY", Z[80:])  # as some systems write endings
    np.save("truth.npy", Y[80:])
    Path("new.NPY.npy").rename("new.NPY")
    command = ["evaluate", "z.npy", "--labels", "y.npy", "--test", "new.NPY", "--output"]
    main([*command, "none"])
    told = capsys.readouterr().out
    assert "the test items have no classes: nothing is said of errors; give --test-labels." in told
    assert "mahalanobis" not in told  # no table without a number
    main([*command, "out", "--test-labels", "truth.npy"])
    assert "no classes" not in capsys.readouterr().out
    expected = evaluate(Z[:80], Y[:80], Z[80:], Y[80:]).metrics["probe/top1"]
    assert metrics()["probe/top1"] == expected


@pytest.mark.parametrize("command", ["posterior", "evaluate"])
def test_a_report_counts_the_rows_of_the_file(command, folder):
    far = Z.copy()
    rows = np.flatnonzero(embedding_commands._test_rows(embedding_commands.Items(Z, Y), seed=0))
    far[rows[3]] = -far[Y[rows[3]] == Y].mean(0)  # nowhere near those of its class
    np.savez("z.npz", embedding=far, label=Y)
    main([command, "z.npz", "--output", "out"])
    page = (folder / "out/report.html").read_text()
    assert re.search(rf"row {rows[3]}\b", page)
    assert "Rows are counted from 0 among the items of the data" in page


def test_held_out_items_and_features(no_report, capsys):
    f = np.concatenate([Z, Z**2], 1)
    for name, part in (("a", slice(60)), ("b", slice(60, 90)), ("c", slice(90, 120))):
        np.savez(f"{name}.npz", embedding=Z[part], label=NAMES[part], features=f[part])
    main(["posterior", "a.npz", "--held-out", "b.npz", "--test", "c.npz", "--output", "out"])
    assert "of 60 items, 30 held out" in capsys.readouterr().out


def test_items_of_unknown_class_are_fitted_to_and_not_evaluated(no_report, capsys):
    labels = np.where(np.arange(120) < 75, NAMES, "")
    np.savez("z.npz", embedding=Z, label=labels)
    main(["posterior", "z.npz", "--output", "out"])
    told = capsys.readouterr().out
    assert "left out of the evaluation: 45 training items of no known class." in told
    assert "60 of the classes were given, the others are predictions." in told
    assert "match/nll" not in metrics()  # whether such an item matches is not known


def test_the_split_follows_from_the_seed_and_keeps_every_class_in_training():
    labels = np.append(Y, 3)  # one of its class
    items = embedding_commands.Items(np.zeros((121, 2)), labels)
    drawn = [embedding_commands._test_rows(items, seed) for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for seed in range(20):
        test = embedding_commands._test_rows(items, seed)
        assert not test[-1] and 23 <= test.sum() <= 24


def test_every_kind_of_file_holds_the_same(parquet):
    np.savez("a.npz", embeddings=Z, labels=Y)
    np.savez_compressed("b.npz", embedding=Z, kind=NAMES)
    np.save("c.npy", Z)
    np.save("y.npy", NAMES)
    write_table("d.parquet", embedding=list(Z), label=NAMES)
    write_table("e.parquet", **{f"x{i}": Z[:, i] for i in range(8)}, label=Y)
    write_table("y.parquet", kind=NAMES)
    read = [
        read_embeddings("a.npz"),
        read_embeddings("b.npz", "kind"),
        read_embeddings("c.npy", "y.npy"),
        read_embeddings("c.npy", "a.npz"),
        read_embeddings("c.npy", "y.parquet"),
        read_embeddings("d.parquet"),
        read_embeddings("e.parquet"),
    ]
    for items in read:
        np.testing.assert_array_equal(items.embedding, Z)
        assert items.labels.tolist() in (Y.tolist(), NAMES.tolist())
    assert read_embeddings("b.npz").labels is None


def test_columns_of_pandas_and_datasets(parquet):
    pyarrow = pytest.importorskip("pyarrow")
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(Z.ravel()), 8)
    few = [None if i < 2 else int(y) for i, y in enumerate(Y)]
    write_table("a.parquet", embedding=fixed, label=pyarrow.array(NAMES).dictionary_encode())
    write_table("b.parquet", **{"0": Z[:, 0], "1": Z[:, 1], "__index_level_0__": Y}, label=few)
    assert (read_embeddings("a.parquet").labels == NAMES).all()
    assert (read_embeddings("a.parquet").embedding == Z).all()
    read = read_embeddings("b.parquet")
    assert read.embedding.shape == (120, 2) and read.labels[:3].tolist() == [-1, -1, 2]
    write_table("c.parquet", id=np.arange(120), **{str(i): Z[:, i] for i in range(8)}, label=Y)
    assert (read_embeddings("c.parquet").embedding == Z).all()  # not the number of the row
    write_table("d.parquet", a=[1, 2], b=[3, 4])
    assert read_embeddings("d.parquet").embedding.tolist() == [[1, 3], [2, 4]]


def test_labels_are_numbered_together():
    (a, b), names = number_labels([np.array([7, -1, 5]), np.array([9])])
    assert a.tolist() == [1, -1, 0] and b.tolist() == [2] and names == ["5", "7", "9"]


def test_an_encoder_by_name_and_its_features_on_disk(no_report, monkeypatch, capsys):
    monkeypatch.setattr("probcl.image_features.encoder_by_name", lambda name: torch.nn.Flatten())
    main(["posterior", "--encoder", "mine.encoder", "--data", "Digits", "--output", "out",
          "--features", "kept"])  # fmt: skip
    assert metrics()["knn/top1"] > 0.9
    assert np.load("kept/train.npy").shape == (1437, 64)
    config = yaml.safe_load(Path("out/config.yaml").read_text())
    assert config["items"] == {"train": 1437, "test": 360}


def test_features_that_another_run_writes_are_left_alone(monkeypatch):
    monkeypatch.setattr("probcl.image_features.encoder_by_name", lambda name: torch.nn.Flatten())
    Path("kept").mkdir()
    holds = "import sys, pathlib, probcl.runs as r; f = r.lock_run_dir(pathlib.Path('kept')); "
    holds += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SystemExit, match=r"another run, process .* writes to the folder kept"):
            main(["posterior", "--encoder", "mine.encoder", "--data", "Digits", "--output", "out",
                  "--features", "kept"])  # fmt: skip
        other.stdin.close()
    assert not Path("out").exists()


def test_views_and_their_features_are_fitted_to(no_report, capsys, monkeypatch):
    taken = {}
    quick = embedding_commands.fit_posterior
    monkeypatch.setattr(
        embedding_commands, "fit_posterior", lambda *a, **k: taken.update(k) or quick(*a, **k)
    )
    f, blurred = np.concatenate([Z, Z**2], 1), 0.5 * Z + 0.5 * Z.mean(0)
    views = {"view_blur": blurred, "view_dark": 0.1 * Z}
    np.savez("a.npz", embedding=Z, label=Y, **views)
    main(["posterior", "a.npz", "--output", "out"])
    assert "match likelihood" in capsys.readouterr().out
    train = ~embedding_commands._test_rows(embedding_commands.Items(Z, Y), seed=0)
    for view, x in zip(taken["views"], views.values(), strict=True):
        assert (view.embedding.numpy() == x[train]).all() and not view.has_features
    features = {f"{name}_features": 2 * f for name in views}
    np.savez("b.npz", embedding=Z, features=f, **views, **features)
    main(["posterior", "b.npz", "--likelihood", "views", "--output", "other"])
    assert "views likelihood" in capsys.readouterr().out
    assert taken["views"][1].features.shape == (96, 16)
    main(["evaluate", "b.npz", "--output", "third"])


def test_pairs_give_two_posteriors_and_are_found(no_report, capsys):
    random = np.random.default_rng(1)
    z = random.normal(size=(400, 8)).astype(np.float32)
    mixed = np.linalg.qr(random.normal(size=(8, 8)))[0]
    np.savez("z.npz", embedding=z, pairs=z + 0.1 * random.normal(size=z.shape))
    main(["posterior", "z.npz", "--output", "out"])
    told = capsys.readouterr().out
    assert "pairs likelihood" in told and "posterior of pairs: out/posterior_of_pairs" in told
    one, two = (PostHoc.from_pretrained(f"out/{n}") for n in ("posterior", "posterior_of_pairs"))
    assert one.fit == two.fit
    found = metrics()
    assert found["match/recall_at_1"] > 0.9 and found["match/nll"] > 0
    with np.load("z.npz") as file:
        items = embedding_commands.Items(file["embedding"], pairs=file["pairs"])
    test = embedding_commands._test_rows(items, seed=0)
    with torch.no_grad():
        q, r = one(items.embedding[test]), two(items.pairs[test])
        best = one.match_probability(q, r) * one.gate(items.embedding[test])[:, None]
    p, row = best.topk(5)
    truth = row == torch.arange(80)[:, None]
    loss = -torch.where(truth, p, 1 - p).double().clamp_min(1e-4).log().mean()
    assert found["match/nll"] == pytest.approx(loss.item(), rel=1e-3)
    np.savez("same.npz", embedding=z, pairs=z[np.arange(400) % 7] @ mixed, label=np.arange(400) % 7)
    main(["posterior", "same.npz", "--likelihood", "match", "--output", "other"])
    assert "match likelihood" in capsys.readouterr().out  # pairs are there, and not asked for


def test_of_equal_partners_each_matches(no_report):
    captions = np.eye(8)[np.arange(120) % 8]
    np.savez("z.npz", embedding=captions + 0.01 * Z, pairs=captions)
    main(["posterior", "z.npz", "--output", "out"])
    assert metrics()["match/recall_at_1"] == 1


def bad_files():
    """Write a file for every kind of bad input."""
    np.savez("good.npz", embedding=Z, label=Y)
    np.savez("far.npz", embedding=1e200 * Z.astype(float), label=Y)
    np.savez("other.npz", vectors=Z, kind=Y)
    np.savez("objects.npz", embedding=np.array([{}, {}], dtype=object))
    np.savez("short.npz", embedding=Z, label=Y[:7])
    np.savez("fractions.npz", embedding=Z, label=Y + 0.5)
    np.savez("words.npz", embedding=NAMES[:, None])
    np.savez("flat.npz", embedding=Z[:, 0])
    np.savez("complex.npz", embedding=Z.astype(complex))
    np.savez("few.npz", embedding=Z[:4])
    np.savez("lone.npz", embedding=Z, label=np.arange(120))
    np.savez("texts.npz", embedding=Z, label=NAMES)
    np.savez("more.npz", embedding=Z, label=Y + 1)
    np.savez("wide.npz", embedding=np.ones((9, 3)), label=Y[:9])
    np.savez("seen.npz", embedding=Z, label=Y, view_blur=Z[:7])
    np.savez("thin.npz", embedding=Z, label=Y, view_blur=Z[:, :3])
    np.savez("plain.npz", embedding=Z, features=Z, view_blur=Z)
    np.savez("alone.npz", embedding=Z, view_blur_features=Z)
    np.savez("dark.npz", embedding=Z, view_dark=0 * Z)
    np.savez("halves.npz", embedding=Z, pairs=Z[:7])
    np.savez("both.npz", embedding=Z, pairs=Z, view_blur=Z)
    np.savez("twins.npz", embedding=Z, pairs=Z)
    np.savez("zero.npz", embedding=Z * (np.arange(120) != 5)[:, None], label=Y)
    z = Z.copy()
    z[[4, 9], 2] = np.nan
    np.savez("nan.npz", embedding=z)
    Path("z.csv").write_text("1,2\n")
    Path("no.npz").write_text("this is no archive")
    Path("no.npy").write_text("this is no array")
    np.save("cut.npy", Z)
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes()[:-40])
    with zipfile.ZipFile("good.npz") as good, zipfile.ZipFile("declares.npz", "w") as file:
        header = good.read("embedding.npy").replace(b"(120, 8)", b"(9120, 8)")
        file.writestr("embedding.npy", header)


BAD = [
    (["none.npz"], "there is no file none.npz"),
    (["z.csv"], "file must end in .npz, .npy, .parquet, got z.csv"),
    (["other.npz"], "has no 'embedding' or 'embeddings': it has vectors, kind"),
    (["objects.npz"], "must hold numbers, or labels texts, got object"),
    (["complex.npz"], "must hold numbers, or labels texts, got complex128"),
    (["short.npz"], "labels must have a row for each of the 120 embeddings of short.npz, got 7"),
    (["fractions.npz"], "must be whole numbers or texts, got fractions"),
    (["words.npz"], "embedding in words.npz must hold numbers, got texts"),
    (["flat.npz"], "must have shape (N, D), not empty, got (120,)"),
    (["few.npz"], "must hold 10 items at least, got 4"),
    (["lone.npz"], "must hold a class of two items at least"),
    (["nan.npz"], "must be finite, row 4 is not (2 rows in all)"),
    (["no.npz"], "no.npz cannot be read"),
    (["no.npy"], "no.npy cannot be read"),
    (["cut.npy"], "cut short"),
    (["declares.npz"], "cut short"),
    (["good.npz", "--labels", "kind"], "has no array 'kind', it has embedding, label"),
    (["good.npz", "--labels", "none.npy"], "there is no file none.npy"),
    (["good.npz", "--labels", "few.npz"], "few.npz must have shape (N,)"),
    (["good.npz", "--test", "texts.npz"], "numbers in every file, or texts in every file"),
    (["good.npz", "--test", "more.npz"], "class '3' of the test items is not among"),
    (["good.npz", "--test", "wide.npz"], "embedding of the test items must have 8 numbers"),
    (["good.npz", "--max-bytes", "99"], "declares 3840 bytes, more than max_bytes, 99"),
    (["good.npz", "--output", "full"], "holds another run"),
    ([], "needs a FILE of embeddings"),
    (["good.npz", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (["good.npz", "--seed", "-1"], "seed must be at least 0, got -1"),
    (["good.npz", "--test-labels", "y.npy"], "--test-labels is for --test, got y.npy without"),
    (["far.npz"], "embedding must be from 1e-30 to 1e+15 in size"),
]


@pytest.mark.parametrize("command", ["posterior", "evaluate"])
def test_bad_input_gets_one_sentence_and_leaves_nothing(command, folder, capsys):
    bad_files()
    (folder / "full").mkdir()
    (folder / "full" / "metrics.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    for args, words in BAD:
        with pytest.raises(SystemExit) as caught:
            main([command, *args])
        said = str(caught.value.code) if caught.value.code != 2 else capsys.readouterr().err
        assert said.startswith("probcl: error: ") and words in said, (args, said)
        assert said.count("\n") <= 1
    made = [path for path in sorted(folder.rglob("*")) if path not in before]
    assert [path for path in made if path.name != "runs"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["zero.npz"], "embedding in zero.npz must have a direction, row 5 is zero"),
        (["good.npz", "--held-out", "more.npz"], "class '3' of the held-out items"),
        (["good.npz", "--likelihood", "twins"], "invalid choice: 'twins'"),
        (["good.npz", "--likelihood", "pairs"], "pairs is needed for likelihood='pairs'"),
        (["good.npz", "--likelihood", "views"], "views is needed for likelihood='views'"),
        (["seen.npz"], "view_blur must have a row for each of the 120 embeddings of seen.npz"),
        (["thin.npz"], "view_blur in thin.npz must have 8 numbers for each item, as embedding"),
        (["plain.npz"], "view_blur_features in plain.npz must have 8 numbers for each item"),
        (["alone.npz"], "view_blur in alone.npz must have 8 numbers for each item, as embedding"),
        (["dark.npz"], "view_dark in dark.npz must have a direction, row 0 is zero"),
        (["halves.npz"], "pairs must have a row for each of the 120 embeddings of halves.npz"),
        (["both.npz"], "views cannot be used where pairs are fitted to"),
        (["twins.npz", "--held-out", "twins.npz"], "held_out cannot be used where pairs are"),
        (["twins.npz", "--test", "good.npz"], "pairs of the test items must have 8 numbers"),
        (["good.npz", "--encoder", "timm:resnet18", "--data", "Digits"], "needs a FILE"),
        (["--encoder", "timm:resnet18"], "needs a FILE"),
        *(
            (
                ["--encoder", "timm:resnet18", "--data", "Digits", f"--{name}", "1"],
                f"--{name} is for a FILE of embeddings: leave it out",
            )
            for name in ("labels", "test", "held-out", "max-bytes")
        ),
        *(
            (["good.npz", f"--{name}", "1"], f"--{name} is for --encoder: leave it out")
            for name in ("root", "size", "features")
        ),
        (["good.npz", "--download"], "--download is for --encoder: leave it out"),
        (["--encoder", "nonsense", "--data", "Digits"], "encoder must be timm:NAME"),
        (["--encoder", "torchvision:resnet18", "--data", "Nothing"], "data must be one of Digits"),
        (["--encoder", "torchvision:resnet18", "--data", "CIFAR10"], "does not hold CIFAR10"),
    ],
)
def test_bad_input_of_posterior(args, words, folder, capsys):
    bad_files()
    with pytest.raises(SystemExit) as caught:
        main(["posterior", *args])
    said = str(caught.value.code) if caught.value.code != 2 else capsys.readouterr().err
    assert said.startswith("probcl: error: ") and words in said
    assert not (folder / "runs").exists() or not any((folder / "runs").iterdir())


def test_bad_tables_get_one_sentence(parquet):
    pyarrow = pytest.importorskip("pyarrow")
    write_table("ragged.parquet", embedding=[[1.0], [1.0, 2.0]])
    write_table("missing.parquet", embedding=[[1.0], None])
    write_table("gap.parquet", a=pyarrow.array([1.0, None]), b=[1.0, 2.0])
    write_table("texts.parquet", name=["a", "b"])
    write_table("strings.parquet", embedding=["a", "b"])
    Path("no.parquet").write_text("this is no table")
    for name, words in {
        "ragged": "must have lists of one length",
        "missing": "must have lists of one length",
        "gap": "row 1 is not",
        "texts": "has no 'embedding' or 'embeddings': it has name",
        "strings": "embedding in strings.parquet must",
        "no": "no.parquet cannot be read",
    }.items():
        with pytest.raises(ValueError, match=words):
            read_embeddings(f"{name}.parquet")
    with pytest.raises(ValueError, match="more than max_bytes"):
        read_embeddings("gap.parquet", max_bytes=20)


def test_a_table_without_pyarrow_says_what_to_install(monkeypatch):
    Path("z.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'probcl\[parquet\]'"):
        read_embeddings("z.parquet")
