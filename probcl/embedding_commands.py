"""The commands for embeddings that are there already: ``probcl posterior``, ``probcl evaluate``."""

import json
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import yaml
from torch.nn.functional import binary_cross_entropy

from probcl.arguments import Parser
from probcl.checks import as_matrix, check_count
from probcl.data import DATASETS
from probcl.embedding_files import ENDINGS, Items, ending, number_labels, read_embeddings
from probcl.evaluation import Embeddings, Evaluation, evaluate, event_calibration_error
from probcl.evaluation.progress import progress_bar
from probcl.files import write_whole
from probcl.image_features import encode_data
from probcl.programs import PosteriorIndex, PostHoc, fit_posterior
from probcl.programs.bank import SAME
from probcl.programs.posthoc import Likelihood, check_directions
from probcl.report import print_summary, write_report
from probcl.runs import CLASSES, discard_if_unused, lock_run_dir, make_run_dir, write_metrics

__all__ = ["run"]

_FILE = (
    ".npz with embedding (or embeddings) and, if there are such, label (or labels) and features; "
    ".npy; or .parquet with columns of these names, or one for each number"
)
_RELATED = (
    "; for a fit an .npz may also hold view_NAME (and view_NAME_features), embeddings of changed "
    "copies row by row, or pairs, embeddings of another kind of the same things"
)
# Options of embeddings in files, and of images that are encoded.
_OF_FILES = ("labels", "test", "test_labels", "held_out", "max_bytes")
_OF_IMAGES = ("data", "root", "size", "features", "download")
_NEAR = 5  # partners that a test item is shown
_TEST = 5  # one item in so many is for the test, where none is given


class _Parts(NamedTuple):
    """Items with numbered classes, -1 where not known, and the names of these."""

    train: Items
    test: Items
    held_out: Items | None
    classes: list[str]


def run(command: str, args: list[str]) -> None:
    """Run ``posterior`` or ``evaluate``, and answer bad input with one sentence.

    Args:
        command: Which of them.
        args: Arguments after it.
    """
    work, describe = {"posterior": (_posterior, _describe), "evaluate": (_evaluate, _shared)}[
        command
    ]
    parser = Parser(prog=f"probcl {command}", description=(work.__doc__ or "").splitlines()[0])
    describe(parser)
    chosen = parser.parse_args(args, Namespace(command=command))
    try:
        check_count("seed", chosen.seed, least=0)
        work(chosen)
    except ValueError as error:
        sys.exit(f"probcl: error: {str(error).splitlines()[0]}")
    except MemoryError:
        sys.exit("probcl: error: the memory does not suffice: take fewer rows, or float16.")
    except KeyboardInterrupt:
        sys.exit("probcl: error: interrupted: there is no report.")
    except OSError as error:
        sys.exit(f"probcl: error: {error.filename or 'a file'}: {error.strerror or error}.")


def _shared(parser: ArgumentParser) -> None:
    """Add the arguments of both commands."""
    add = parser.add_argument
    more = _RELATED if parser.prog.endswith("posterior") else ""
    add("file", nargs="?", type=Path, metavar="FILE", help=_FILE + more)
    add("--labels", help="file of the classes, or the name of their array or column in FILE")
    add("--test", type=Path, metavar="FILE", help="items to evaluate on (default: a fifth)")
    add("--test-labels", metavar="LABELS", help="their classes, as --labels")
    add("--output", metavar="FOLDER", help="folder to write, new or empty (default: in runs)")
    add("--seed", type=int, default=0, help="seed of the split and of the fit (default: 0)")
    add("--max-bytes", type=int, help="the most that arrays may take (default: the memory)")


def _describe(parser: ArgumentParser) -> None:
    """Add the arguments of ``posterior``."""
    _shared(parser)
    add = parser.add_argument
    add("--held-out", type=Path, metavar="FILE", help="items that no encoder was trained on")
    add("--likelihood", choices=get_args(Likelihood), help="default: pairs if there are such, or "
        "match if there are labels, or neighbours")  # fmt: skip
    add("--encoder", metavar="NAME", help="in place of FILE: timm:NAME, torchvision:NAME, either "
        "with :WEIGHTS after it, or the import path of a function of your own")  # fmt: skip
    add("--data", metavar="NAME", help=f"its images: {', '.join(DATASETS)}; or a folder with "
        "train/CLASS/* and test/CLASS/*")  # fmt: skip
    add("--root", type=Path, help="folder of the data set (default: data)")
    add("--size", type=int, help="height and width to resize images to")
    add("--features", type=Path, metavar="FOLDER", help="where the features of images are kept, "
        "for other runs too (default: in the output folder)")  # fmt: skip
    add("--download", action="store_true", help="download the data set if it is not there")


def _posterior(chosen: Namespace) -> None:
    """Fit a posterior to embeddings, evaluate it and write a report."""
    if (chosen.file is None) == (chosen.encoder is None) or (chosen.encoder and not chosen.data):
        raise ValueError("posterior needs a FILE of embeddings, or --encoder and --data.")
    _refuse(chosen, _OF_FILES if chosen.encoder else _OF_IMAGES)
    if chosen.encoder:
        name = f"{chosen.encoder}-{Path(chosen.data).name}".lower().replace(":", "-")
        name = f"posterior-{name}-seed{chosen.seed}"
        with _folder(chosen.output, name) as folder:
            parts = _encoded(chosen, folder)
            _fit(chosen, parts, folder)
        return
    parts = _read(chosen)
    with _folder(chosen.output, f"posterior-{chosen.file.stem}-seed{chosen.seed}") as folder:
        _fit(chosen, parts, folder)


def _refuse(chosen: Namespace, options: Sequence[str]) -> None:
    """Raise ``ValueError`` if there is an option that would be of no use."""
    for name in options:
        if getattr(chosen, name):
            of = "a FILE of embeddings" if name in _OF_FILES else "--encoder"
            raise ValueError(f"--{name.replace('_', '-')} is for {of}: leave it out.")


def _evaluate(chosen: Namespace) -> None:
    """Evaluate embeddings from elsewhere and write a report, without fitting anything."""
    if chosen.file is None:
        raise ValueError("evaluate needs a FILE of embeddings.")
    parts = _read(chosen)
    with _folder(chosen.output, f"evaluation-{chosen.file.stem}-seed{chosen.seed}") as folder:
        _write(chosen, parts, folder, lambda part: Embeddings(*part[:3], rows=part.rows))


def _fit(chosen: Namespace, parts: _Parts, folder: Path) -> None:
    train, held = parts.train, parts.held_out
    given = held and (_embeddings(held), held.labels)
    views = [
        Embeddings(x, features=train.views.get(f"{name}_features"))
        for name, x in train.views.items()
        if not name.endswith("_features")
    ]
    began = perf_counter()
    with warnings.catch_warnings():  # what it rests on says so
        warnings.filterwarnings("ignore", "the embedding memorises", UserWarning)
        fitted: Any = fit_posterior(
            train.embedding, train.labels, features=train.features, held_out=given,
            views=views or None, pairs=train.pairs, likelihood=chosen.likelihood, seed=chosen.seed,
        )  # fmt: skip
    seconds = {"time/fit_s": perf_counter() - began}
    posteriors: tuple[PostHoc, ...] = fitted if isinstance(fitted, tuple) else (fitted,)
    print(posteriors[0].fit)

    def embed(part: Items) -> Embeddings:
        return posteriors[0].embed(_embeddings(part), part.labels)

    _write(chosen, parts, folder, embed, posteriors, seconds)


def _write(
    chosen: Namespace,
    parts: _Parts,
    folder: Path,
    embed: Callable[[Items], Embeddings],
    posteriors: tuple[PostHoc, ...] = (),
    seconds: dict[str, float] | None = None,
) -> None:
    """Evaluate, then write the numbers and what they come from, then draw the report.

    Of pairs there are two posteriors: that of the items is evaluated, both are saved.
    """
    began = perf_counter()
    train, test = (embed(_known(part)) for part in (parts.train, parts.test))
    found: Evaluation = evaluate(train, None, test, None, progress=True)
    seconds = {**(seconds or {}), "time/evaluate_s": perf_counter() - began}
    if posteriors:
        found.metrics |= _of_matches(posteriors, parts, found.left_out)
    saved = dict(zip(("posterior", "posterior_of_pairs"), posteriors, strict=False))
    for name, posterior in saved.items():
        posterior.save_pretrained(folder / name)
    write_whole(folder / "config.yaml", _configuration(chosen, parts, posteriors))
    write_whole(folder / CLASSES, json.dumps(parts.classes))  # too many for a configuration
    metrics = found.metrics | seconds
    write_metrics(folder, metrics)
    own: Any = posteriors[0] if posteriors else None
    match = own.match_probability if own and own.fit.likelihood == "match" else None
    path = write_report(found, folder / "report.html", run_dir=folder, match=match)
    print_summary(metrics, found.answers)
    for part, name in ((parts.train, "training"), (parts.test, "test")):
        left_out = len(part.embedding) - len(_known(part).embedding)
        if left_out:
            print(f"left out of the evaluation: {left_out} {name} items of no known class.")
    if parts.train.labels is not None and parts.test.labels is None:
        print("the test items have no classes: nothing is said of errors; give --test-labels.")
    for name in saved:
        print(f"{name.replace('_', ' ')}: {folder / name}")
    print(f"report: {path}")


@torch.no_grad()
def _of_matches(
    posteriors: tuple[PostHoc, ...], parts: _Parts, left_out: dict[str, str]
) -> dict[str, float]:
    """Return how well the match probability predicts; note why where that cannot be known."""
    if len(posteriors) == 2:
        return _of_partners(*posteriors, parts.test)
    posterior: Any = posteriors[0]
    test, fit = _known(parts.test), posterior.fit
    if fit.likelihood != "match" or fit.predicted or test.labels is None:
        reason = "needs matches for the likelihood, and every class of training and test items"
        left_out |= dict.fromkeys(("match/nll", "match/ece"), reason)
        return {}
    p, row = posterior.neighbour_match(_embeddings(test))
    matched = posterior.posterior_head.bank.labels[row] == torch.as_tensor(test.labels)[:, None]
    return _calibration(p, matched)


def _of_partners(own: PostHoc, other: PostHoc, test: Items) -> dict[str, float]:
    """Return how well test items find their partners among those of all test items."""
    partners = other(test.pairs)
    index = PosteriorIndex(own, partners)
    p, row, _ = index.search(_embeddings(test), min(_NEAR, len(index)))
    # Another that equals the partner, such as the same caption, matches too.
    matched = torch.linalg.vecdot(partners.loc[:, None], partners.loc[row]) > 1 - SAME
    return _calibration(p, matched) | {"match/recall_at_1": matched[:, 0].double().mean().item()}


def _calibration(probability: torch.Tensor, matched: torch.Tensor) -> dict[str, float]:
    """Return the negative log likelihood and the calibration error of match probabilities."""
    p, truth = probability.flatten().double().clamp(1e-4, 1 - 1e-4), matched.flatten()
    loss = binary_cross_entropy(p, truth.double()).item()
    return {"match/nll": loss, "match/ece": event_calibration_error(p, truth)}


def _configuration(chosen: Namespace, parts: _Parts, posteriors: tuple[PostHoc, ...]) -> str:
    """Return what was asked for and what it was made of, as YAML."""
    given = {name: value for name, value in vars(chosen).items() if value is not None}
    given.pop("output", None)
    asked = {name: str(x) if isinstance(x, Path) else x for name, x in given.items()}
    about: dict[str, Any] = {"asked": asked}
    about["items"] = {"train": len(parts.train.embedding), "test": len(parts.test.embedding)}
    if posteriors:
        fit = asdict(posteriors[0].fit)
        about["posterior"] = fit | {"inputs": list(fit["inputs"])}
    return yaml.safe_dump(about, sort_keys=False)


@contextmanager
def _folder(chosen: str | None, name: str) -> Iterator[Path]:
    """Make the folder of a run, which is gone again if the run does not begin."""
    path = Path(chosen or "")
    if chosen and (path / "features").is_dir() and not (path / "metrics.json").exists():
        lock = lock_run_dir(path)  # a run that was killed, or failed, after its images were encoded
    else:
        path, lock = make_run_dir(chosen, name)
    with lock:
        try:
            yield path
        finally:
            with suppress(OSError):
                (path / "features").rmdir()  # only where nothing was encoded
            discard_if_unused(path)


def _read(chosen: Namespace) -> _Parts:
    """Read the files, and number their classes alike."""
    most = {} if chosen.max_bytes is None else {"max_bytes": chosen.max_bytes}
    if chosen.test_labels and not chosen.test:
        raise ValueError(f"--test-labels is for --test, got {chosen.test_labels} without: name it.")
    named = None if ending(chosen.labels or "") in ENDINGS else chosen.labels
    fits = chosen.command == "posterior"

    def read(path: Path, labels: str | None) -> Items:
        items = read_embeddings(path, labels, **most, related=fits)
        if not fits:
            return items
        if chosen.likelihood not in (None, "pairs"):
            items = items._replace(pairs=None)
        some = {"embedding": items.embedding, "pairs": items.pairs, **items.views}
        for name, x in some.items():
            if x is not None and not name.endswith("_features"):
                check_directions(as_matrix(name, x), f"{name} in {path}")
        return items

    whole = read(chosen.file, chosen.labels)
    test, held = (
        read(path, labels) if path else None
        for path, labels in (
            (chosen.test, chosen.test_labels or named), (getattr(chosen, "held_out", None), named)
        )
    )  # fmt: skip
    return _parts(whole, test, held, chosen.seed)


def _encoded(chosen: Namespace, folder: Path) -> _Parts:
    """Encode the images of a data set, and take their classes from it."""
    features = folder / "features"
    alone: AbstractContextManager[Any] = nullcontext()
    if chosen.features:
        features = chosen.features
        features.mkdir(parents=True, exist_ok=True)
        try:
            alone = lock_run_dir(features)  # others may take the same at the same time
        except ValueError as error:
            if os.access(features, os.W_OK):  # else nothing can be written: it may all be there
                raise ValueError(str(error).replace("run_dir", "features", 1)) from error
    with alone, progress_bar():
        train, test = encode_data(
            chosen.encoder, chosen.data, features, root=chosen.root or Path("data"),
            size=chosen.size, download=chosen.download, seed=chosen.seed,
        )  # fmt: skip
    return _parts(Items(*train), Items(*test), None, chosen.seed)


def _parts(whole: Items, test: Items | None, held: Items | None, seed: int) -> _Parts:
    """Return the sets with numbered classes; a fifth is the test set where none is given."""
    sets = [whole, test, held]
    numbered, classes = number_labels([part.labels if part else None for part in sets])
    train, test, held = (
        part and part._replace(labels=labels) for part, labels in zip(sets, numbered, strict=True)
    )
    assert train is not None
    if test is None:
        rows = _test_rows(train, seed)
        train, test = (train.at(part) for part in (~rows, rows))
    for name, part in (("test", test), ("held-out", held)):
        if part is not None:
            _check_alike(name, part, train, classes)
    return _Parts(train, test, held, classes)


def _check_alike(name: str, part: Items, train: Items, classes: list[str]) -> None:
    """Raise ``ValueError`` unless items have the dimensions and classes of the training items."""
    for what in ("embedding", "features", *["pairs"] * (name == "test")):
        own, other = getattr(part, what), getattr(train, what)
        has, needs = (0 if x is None else x.shape[1] for x in (own, other))
        if has != needs:
            raise ValueError(
                f"{what} of the {name} items must have {needs} numbers, as that of the training "
                f"items, got {has}."
            )
    if part.labels is None or train.labels is None:
        return
    lacking = np.setdiff1d(part.labels, [*train.labels, -1])
    if len(lacking):
        raise ValueError(
            f"labels: class {classes[lacking[0]]!r} of the {name} items is not among the training "
            "items: leave it out."
        )


def _test_rows(items: Items, seed: int) -> np.ndarray:
    """Draw a fifth of the items whose class is known, and not the last one of its class."""
    count, labels = len(items.embedding), items.labels
    if count < 2 * _TEST:
        raise ValueError(f"file must hold {2 * _TEST} items at least, got {count}: add some.")
    known = np.arange(count) if labels is None else np.flatnonzero(labels >= 0)
    drawn = np.random.default_rng(seed).permutation(known)[: max(len(known) // _TEST, 1)]
    test = np.zeros(count, bool)
    test[drawn] = True
    if labels is not None:
        test &= np.isin(labels, labels[~test])
    if not test.any():
        raise ValueError("labels must hold a class of two items at least: give a test set.")
    return test


def _embeddings(items: Items) -> Embeddings:
    """Return items as a posterior takes them, without their classes."""
    return Embeddings(items.embedding, features=items.features, rows=items.rows)


def _known(items: Items) -> Items:
    """Return the items whose class is known; all where there are no classes."""
    if items.labels is None or (items.labels >= 0).all():
        return items
    return items.at(items.labels >= 0)
