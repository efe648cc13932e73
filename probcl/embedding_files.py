"""Embeddings from files that others wrote: arrays of numbers, and the classes of their rows."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np

from probcl.data.readers import MOST_BYTES

__all__ = ["ENDINGS", "Items", "ending", "number_labels", "read_embeddings"]

#: Endings of the files that can be read.
ENDINGS = (".npz", ".npy", ".parquet")

_EMBEDDING, _LABEL, _FEATURES = ("embedding", "embeddings"), ("label", "labels"), ("features",)
_VIEW = "view_"
_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[Any, bool, Any]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_WIDEST = 8  # bytes of a number of a table


class Items(NamedTuple):
    """What a file holds of ``N`` items.

    Attributes:
        embedding: Shape ``(N, d)``.
        labels: Whole numbers, -1 where a class is not known, or texts, empty there; ``(N,)``.
        features: Shape ``(N, F)``.
        pairs: Embeddings of another kind of the same things, ``(N, d)``.
        views: Of changed copies, by the name of the array: embeddings ``(N, d)`` and, as
            ``NAME_features``, features ``(N, F)``.
        rows: Row of each item in its file, ``(N,)``; None for 0, 1, ...
    """

    embedding: np.ndarray
    labels: np.ndarray | None = None
    features: np.ndarray | None = None
    pairs: np.ndarray | None = None
    views: Mapping[str, np.ndarray] = MappingProxyType({})
    rows: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> "Items":
        """Return some items, by truth values ``(N,)``."""
        others = (None if x is None else x[rows] for x in (self.labels, self.features, self.pairs))
        labels, features, pairs = others
        views = {name: x[rows] for name, x in self.views.items()}
        own = np.arange(len(self.embedding)) if self.rows is None else self.rows
        return Items(self.embedding[rows], labels, features, pairs, views, own[rows])


def read_embeddings(
    path: str | Path,
    labels: str | Path | None = None,
    max_bytes: int = MOST_BYTES,
    related: bool = False,
) -> Items:
    """Read embeddings and the classes of their rows.

    Args:
        path: ``.npz`` with an array ``embedding`` or ``embeddings``, and where there are such
            ``label`` or ``labels``, and ``features``; ``.npy`` with the embeddings alone;
            ``.parquet`` (extra ``parquet``) with columns of these names, lists but for the labels,
            or with every number in a column of its own: a column of whole numbers among others is
            taken for the name of a row, and left out.
        labels: Name of the array or column of the classes, or a file of them, one of these kinds.
        max_bytes: The most that the arrays may take; their headers tell, before they are read. By
            default what memory the machine has.
        related: Whether to read what an ``.npz`` may hold beside them: ``pairs``, and ``view_NAME``
            and ``view_NAME_features``.

    Raises:
        ValueError: If a file is of another kind, too large, damaged, lacks an array, or its arrays
            are not of numbers, not finite, or of different lengths or dimensions.
    """
    file = Path(path)
    elsewhere = labels is not None and ending(labels) in ENDINGS
    named = None if elsewhere else labels
    names: dict[str, tuple[str, ...]]
    names = {"embedding": _EMBEDDING, "features": _FEATURES, "labels": _LABEL}
    if named is not None:
        names["labels"] = (str(named),)
    if related and ending(file) == ".npz":
        names |= {"pairs": ("pairs",), _VIEW: ()}
    try:
        found = _read(file, names, max_bytes, needed="embedding")
        if named is not None and "labels" not in found:
            known = ", ".join(found.get("others", ())) or "none"
            raise ValueError(
                f"labels: {file} has no array {named!r}, it has {known}; a file of labels ends in "
                f"{', '.join(ENDINGS)}."
            )
        if labels is not None and elsewhere:
            names = {"labels": (*_LABEL, "")}  # a lone array needs no name
            found["labels"] = _read(Path(labels), names, max_bytes, needed="labels")["labels"]
    except MemoryError as error:
        raise ValueError(f"file: {file} needs more memory than there is ({error}).") from error
    given = {name: x for name, x in found.items() if name not in ("labels", "others")}
    given = {name: _matrix(file, name, x) for name, x in given.items()}
    classes = found.get("labels")
    if classes is not None:
        given["labels"] = _classes(Path(labels) if labels and elsewhere else file, classes)
    count = len(given["embedding"])
    for name, values in given.items():
        if len(values) != count:
            raise ValueError(
                f"{name} must have a row for each of the {count} embeddings of {file}, got "
                f"{len(values)}."
            )
    views = {name: given.pop(name) for name in list(given) if name.startswith(_VIEW)}
    items = Items(**given, views=views)
    _check_views(file, items)
    return items


def ending(path: str | Path) -> str:
    """Return the ending of a file's name, in small letters."""
    return Path(path).suffix.lower()


def number_labels(
    sets: Sequence[np.ndarray | None],
) -> tuple[list[np.ndarray | None], list[str]]:
    """Number the classes of several sets together, in the order of their names.

    Args:
        sets: Whole numbers or texts, ``(N,)`` each, as ``Items.labels``; None without any.

    Returns:
        For each set classes from 0, -1 where not known, ``(N,)``; and the names of the classes.

    Raises:
        ValueError: If one set holds numbers, another texts.

    Example:
        >>> number_labels([np.array(["cat", "ant"]), None, np.array(["", "cat"])])
        ([array([1, 0]), None, array([-1,  1])], ['ant', 'cat'])
    """
    there = [labels for labels in sets if labels is not None]
    if not there:
        return list(sets), []
    if len({labels.dtype.kind == "U" for labels in there}) > 1:
        raise ValueError("labels must be numbers in every file, or texts in every file.")
    names, numbers = np.unique(np.concatenate(there), return_inverse=True)
    unknown = names == "" if names.dtype.kind == "U" else names == -1
    place = np.where(unknown, -1, np.cumsum(~unknown) - 1)
    parts = iter(np.split(place[numbers], np.cumsum([len(labels) for labels in there])[:-1]))
    numbered = [None if labels is None else next(parts) for labels in sets]
    return numbered, [str(name) for name in names[~unknown]]


def _read(file: Path, names: dict[str, tuple[str, ...]], most: int, needed: str) -> dict[str, Any]:
    """Return arrays of a file by what they are; ``others`` has every name there is."""
    if ending(file) not in ENDINGS:
        raise ValueError(f"file must end in {', '.join(ENDINGS)}, got {file}.")
    if not file.is_file():
        raise ValueError(f"file: there is no file {file}.")
    reader = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}[ending(file)]
    try:
        found = reader(file, names, most)
    except (MemoryError, ValueError) as error:
        if isinstance(error, MemoryError) or str(error).startswith(("file: ", "labels: ")):
            raise
        raise _damaged(file, error) from error
    except Exception as error:  # whatever the parsers of a damaged file meet
        raise _damaged(file, error) from error
    if needed not in found:
        wanted = " or ".join(repr(name) for name in names[needed] if name)
        there = ", ".join(found["others"]) or "nothing"
        raise ValueError(f"file: {file} has no {wanted}: it has {there}; rename one of them.")
    return found


def _check_views(file: Path, items: Items) -> None:
    """Raise ``ValueError`` unless views have the dimensions of the items."""
    for name in {name.removesuffix("_features") for name in items.views}:
        for view, what in ((name, "embedding"), (f"{name}_features", "features")):
            own, other = items.views.get(view), getattr(items, what)
            has, needs = (0 if x is None else x.shape[1] for x in (own, other))
            if has != needs:
                raise ValueError(
                    f"{view} in {file} must have {needs} numbers for each item, as {what}, got "
                    f"{has}."
                )


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
    return ValueError(f"file: {file} cannot be read ({reason}): write it anew.")


def _read_npy(file: Path, names: dict[str, tuple[str, ...]], most: int) -> dict[str, Any]:
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        return {next(iter(names)): _array(content, file, "its array", size, most), "others": []}


def _read_npz(file: Path, names: dict[str, tuple[str, ...]], most: int) -> dict[str, Any]:
    with zipfile.ZipFile(file) as parts:
        there = {part.filename.removesuffix(".npy"): part for part in parts.infolist()}
        found: dict[str, Any] = {"others": list(there)}
        if _VIEW in names:
            names = names | {name: (name,) for name in there if name.startswith(_VIEW)}
        for what, wanted in names.items():
            name = next((name for name in wanted if name in there), None)
            if name is None and "" in wanted and len(there) == 1:
                name = next(iter(there))
            if name is None:
                continue
            with parts.open(there[name]) as content:
                found[what] = _array(content, file, name, there[name].file_size, most)
                content.read()  # at its end its checksum is compared
    return found


def _array(content: IO[bytes], file: Path, name: str, size: int, most: int) -> np.ndarray:
    """Read an array once its header says that it is of numbers or texts, and not too large."""
    read_header = _HEADERS.get(np.lib.format.read_magic(content))
    if read_header is None:
        raise ValueError(f"file: {name} in {file} is of no kind that is read: save it by NumPy.")
    shape, _, dtype = read_header(content)
    if dtype.kind not in "iufbU":
        raise ValueError(
            f"file: {name} in {file} must hold numbers, or labels texts, got {dtype}: convert it "
            "by astype."
        )
    declared = prod(shape) * dtype.itemsize
    _check_size(file, declared, most)
    if min(shape, default=0) < 0 or declared > size - content.tell():
        raise ValueError(f"file: {name} in {file} is cut short: write the file anew.")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def _check_size(file: Path, declared: int, most: int) -> None:
    if declared > most:
        raise ValueError(
            f"file: {file} declares {declared} bytes, more than max_bytes, {most}: take fewer rows "
            "or float16, or allow more."
        )


def _read_parquet(file: Path, names: dict[str, tuple[str, ...]], most: int) -> dict[str, Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"file: {file} needs PyArrow: pip install 'probcl[parquet]', or write .npz."
        ) from error
    with parquet.ParquetFile(file) as table:
        schema = table.schema_arrow
        taken = {
            what: [next((name for name in wanted if name in schema.names), None)]
            for what, wanted in names.items()
        }
        if "embedding" in names and taken["embedding"] == [None]:
            labelled = (*taken["labels"], *taken["features"])
            taken["embedding"] = [*_columns_of_numbers(schema, labelled)]
        elif taken.get("labels") == [None] and "" in names["labels"] and len(schema) == 1:
            taken["labels"] = schema.names
        wanted = {name for columns in taken.values() for name in columns if name}
        _check_size(file, _declared(table.metadata, wanted), most)
        found: dict[str, Any] = {"others": schema.names}
        for what, columns in taken.items():
            parts = [
                _column(file, name, table.read([name])[name], of_classes=what == "labels")
                for name in columns
                if name
            ]
            if parts:
                lone = what == "labels" or parts[0].ndim == 2
                found[what] = parts[0] if lone else np.stack(parts, 1)
        return found


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_floating(kind) or types.is_integer(kind)


def _columns_of_numbers(schema: Any, labelled: Sequence[str | None]) -> list[str]:
    """Return the columns that have an embedding's numbers: whole ones only where all are whole."""
    from pyarrow import types

    numbers = [
        field
        for field in schema
        if _is_number(field.type)
        and field.name not in labelled
        and not field.name.startswith("__index_level_")
    ]
    floating = [field for field in numbers if types.is_floating(field.type)]
    return [field.name for field in floating or numbers]


def _declared(metadata: Any, wanted: set[str]) -> int:
    """Return how many bytes columns may take once they are unpacked, by the file's own index."""
    total = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        for index in range(about.num_columns):
            column = about.column(index)
            if column.path_in_schema.partition(".")[0] in wanted:
                total += max(column.num_values * _WIDEST, column.total_uncompressed_size)
    return total


def _column(file: Path, name: str, column: Any, of_classes: bool) -> np.ndarray:
    """Return a column of numbers or texts ``(N,)``, or of lists of numbers ``(N, d)``."""
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or types.is_fixed_size_list(column.type)
    ):
        lengths = compute.list_value_length(column).unique()
        inner = compute.list_flatten(column)
        if column.null_count or inner.null_count or len(lengths) > 1:
            raise ValueError(f"file: {name} in {file} must have lists of one length, none missing.")
        return _numbers(inner, file, name).reshape(len(column), -1)
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(column.fill_null("").to_pylist(), dtype=np.str_)
    if column.null_count and of_classes and types.is_integer(column.type):
        column = column.fill_null(-1)  # a class that is not known
    return _numbers(column, file, name)


def _numbers(column: Any, file: Path, name: str) -> np.ndarray:
    if not _is_number(column.type):
        raise ValueError(
            f"file: {name} in {file} must hold numbers, or labels texts, got {column.type}."
        )
    return column.to_numpy()


def _matrix(file: Path, name: str, values: np.ndarray) -> np.ndarray:
    """Return numbers ``(N, D)``, or raise ``ValueError``."""
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"{name} in {file} must have shape (N, D), not empty, got {tuple(values.shape)}."
        )
    if values.dtype.kind == "U":
        raise ValueError(f"{name} in {file} must hold numbers, got texts.")
    bad = np.flatnonzero(~np.isfinite(values).all(-1))
    if len(bad):
        raise ValueError(
            f"{name} in {file} must be finite, row {bad[0]} is not ({len(bad)} rows in all): leave "
            "such rows out, and their labels."
        )
    return values


def _classes(file: Path, values: np.ndarray) -> np.ndarray:
    """Return classes ``(N,)``, whole numbers or texts, or raise ``ValueError``."""
    if values.ndim != 1:
        raise ValueError(f"labels in {file} must have shape (N,), got {tuple(values.shape)}.")
    if values.dtype.kind == "U":
        return values
    if not (np.isfinite(values) & (values == np.round(values))).all():
        raise ValueError(f"labels in {file} must be whole numbers or texts, got fractions.")
    # Floats beyond are not all there, and integers have no room.
    most = 2**53 if values.dtype.kind == "f" else np.iinfo(np.int64).max
    if len(values) and (values.max() > most or values.min() < -most):
        raise ValueError(
            f"labels in {file} must be at most {most}, got {values.max()}: number the classes by "
            "np.unique(labels, return_inverse=True)[1], or give them as texts."
        )
    return values.astype(np.int64)
