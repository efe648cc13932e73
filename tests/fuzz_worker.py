"""Read damaged files of every kind that the package reads, and say what came of it.

``python fuzz_worker.py FOLDER SHARE SEED`` writes the files into FOLDER, a few of each kind times
SHARE, and prints a JSON document: counts by kind and outcome, and what should not have happened.
"""

import contextlib
import io
import json
import os
import re
import resource
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from probcl.cli_arguments import with_config
from probcl.data import ImageFiles, read_arrays, read_folder
from probcl.data.datasets import FORMATS
from probcl.hub import Pretrained
from probcl.report import compare_runs
from probcl.runs import is_whole, newest_checkpoint, read_history
from probcl.training.checkpoint_io import WholeCheckpointIO
from probcl.trust import check_trusted, read_config

SECONDS, MEMORY = 5, 2**30
HUGE = (0, 1, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1, 2**63 - 1)
WORDS = (b"-1", b"0", b"1e999", b"nan", b"null", b"99999999999999999999", b"strange.Encoder", b"[]")
VALUES = (
    None, True, -1, 0, 3.5, 10**400, float("nan"), 1e308, "", "x", "strange.Encoder", [], {}, [[]],
    {"class_path": "strange.Encoder"}, "{class_path: strange.Encoder}", [1, 2, 3], {"a": {"b": 1}},
    {"class_path": "torch.nn.Linear"}, {"class_path": "probcl.nn.ConvNet", "init_args": {"x": 1}},
)  # fmt: skip
CANARY = 'from pathlib import Path\nPath("called").touch()\n\nclass Encoder:\n    pass\n'
ODD_NAMES = (
    "ümlaut",
    "日本語",
    "a b",
    "a\nb",
    "a'b\"c",
    "-rf",
    "%s{0}",
    "e\u0301",
    "🙂",
    "x" * 200,
)

ENCODER = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
PROGRAM = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": ENCODER}}
CONFIG = {
    "seed_everything": 0,
    "model": {"program": PROGRAM, "kl": "auto"},
    "data": {"class_path": "probcl.training.Arrays", "init_args": {"path": "images.npz"}},
    "trainer": {"precision": "32-true", "max_epochs": 3, "callbacks": None},
}
METRICS = {"knn/top1": 0.9, "probe/top1": 0.8, "unc/retrieval_error/entropy": 0.7, "own/x": 1.5}
HISTORY = """\
contrastive,epoch,kl_z,loss,step,val/knn_top1
,0,,,10,0.5
3.5,0,0.25,3.75,10,
3.1,1,0.3,3.4,20,
"""


class Canary:
    """What unpickling would run: it leaves a file."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("called"),)


class Kind(NamedTuple):
    """A kind of file: how many of it, what writes whole ones, and what reads one in their place."""

    count: int
    write: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    document: bool = False


def mutated(content: bytes, random: np.random.Generator, document: bool) -> bytes:
    """Return the content of a file with one to three faults, or of a document with other values."""
    if document and random.random() < 0.5:
        return other_value(bytearray(content), random)
    for _ in range(random.integers(1, 4)):
        content = FAULTS[random.integers(len(FAULTS))](bytearray(content), random)
    return content


def flipped(content: bytearray, random: np.random.Generator) -> bytes:
    for _ in range(int(2 ** random.uniform(0, 6)) if content else 0):
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    return bytes(content)


def flipped_in_header(content: bytearray, random: np.random.Generator) -> bytes:
    return flipped(content[:64], random) + bytes(content[64:])


def cut(content: bytearray, random: np.random.Generator) -> bytes:
    return bytes(content[: random.integers(len(content) + 1)])


def doubled(content: bytearray, random: np.random.Generator) -> bytes:
    start, end = sorted(random.integers(len(content) + 1, size=2))
    return bytes(content[:end] + content[start:])


def swapped(content: bytearray, random: np.random.Generator) -> bytes:
    a, b, c = sorted(random.integers(len(content) + 1, size=3))
    return bytes(content[:a] + content[b:c] + content[a:b] + content[c:])


def other_number(content: bytearray, random: np.random.Generator) -> bytes:
    """Put another number of two, four or eight bytes, more often near the beginning or the end."""
    size = int(random.choice([2, 4, 8]))
    place = int(len(content) * random.beta(0.3, 0.3))
    number = int(random.choice(np.array(HUGE, object))) % 256**size
    content[place : place + size] = number.to_bytes(size, str(random.choice(["little", "big"])))
    return bytes(content)


def other_word(content: bytearray, random: np.random.Generator) -> bytes:
    """Put another word for a number or a name in letters."""
    found = list(re.finditer(rb"[\w.]+", content[:4096]))
    if found:
        where = found[random.integers(len(found))]
        content[where.start() : where.end()] = WORDS[random.integers(len(WORDS))]
    return bytes(content)


def other_value(content: bytearray, random: np.random.Generator) -> bytes:
    """Put another value somewhere into a document of JSON or YAML."""
    try:
        document = yaml.safe_load(bytes(content))
    except (ValueError, yaml.YAMLError):
        return bytes(content)
    node, place = {"": document}, ""
    while isinstance(node[place], dict | list) and node[place] and random.random() < 0.9:
        node = node[place]
        places = list(node) if isinstance(node, dict) else range(len(node))
        place = places[random.integers(len(places))]
    node[place] = VALUES[random.integers(len(VALUES))]
    return json.dumps(document, default=str).encode()


FAULTS = (flipped, flipped_in_header, cut, doubled, swapped, other_number, other_word)


def pictures(form: str) -> list[bytes]:
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
    written = []
    for image in (colours, colours.convert("L"), colours.convert("P")):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        with contextlib.suppress(OSError):
            image.save(buffer, form, **({"exif": exif} if form != "PPM" else {}))
            written.append(buffer.getvalue())
    return written


def read_picture(content: bytes) -> None:
    Path("picture").write_bytes(content)
    assert isinstance(ImageFiles(["picture"], unreadable="skip")[0][0], str | Image.Image)
    ImageFiles(["picture"])[0]


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def arrays() -> list[bytes]:
    labels, images = np.arange(6) % 2, np.zeros((6, 1, 8, 8), np.uint8)
    plain = {"train_images": images, "train_labels": labels, "test_labels": labels}
    objects = np.array([Canary()] * 6, object)
    return [
        saved(test_images=images / 255, **plain),
        saved(test_images=images, **plain),
        saved(test_images=objects, **plain),
    ]


def packed() -> list[bytes]:
    files = (pictures("JPEG")[0], pictures("PNG")[0]) * 3
    offset = np.cumsum([0, *map(len, files)])
    content = np.frombuffer(b"".join(files), np.uint8)
    split = np.array([0, 0, 0, 0, 1, 1])
    return [saved(jpeg=content, offset=offset, label=np.arange(6) % 2, split=split)]


def read_npz(content: bytes) -> None:
    Path("arrays.npz").write_bytes(content)
    read_arrays("arrays.npz")


def checkpoints() -> list[bytes]:
    written = []
    for extra in ({}, {"own": Canary()}):
        buffer = io.BytesIO()
        state = {"global_step": 3, "epoch": 1, "state_dict": {"w": torch.ones(40, 40)}, **extra}
        torch.save(state, buffer)
        written.append(buffer.getvalue())
    return written


def read_checkpoint(content: bytes) -> None:
    path = Path("run/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert (newest_checkpoint(Path("run"))[0] is not None) == is_whole(path)
    WholeCheckpointIO().load_checkpoint(path)


def pretrained(name: str) -> Callable[[], list[bytes]]:
    def write() -> list[bytes]:
        Pretrained(PROGRAM, (1, 8, 8)).save_pretrained("pretrained")
        whole = Path("pretrained", name).read_bytes()
        return [whole, whole.replace(b"sha256", b"sha255")]  # as of those that others write

    return write


def read_pretrained(name: str) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        whole = Path("pretrained", name).read_bytes()
        try:
            Path("pretrained", name).write_bytes(content)
            Pretrained.from_pretrained("pretrained")
        finally:
            Path("pretrained", name).write_bytes(whole)

    return read


def configurations() -> list[bytes]:
    strange = CONFIG | {"model": {"program": {"class_path": "strange.Encoder"}}}
    return [yaml.safe_dump(config).encode() for config in (CONFIG, strange)]


def read_configuration(content: bytes) -> None:
    path = Path("config.yaml")
    path.write_bytes(content)
    check_trusted(read_config(path), path)
    with_config(["predict"], path, trust=False)


def read_metrics(content: bytes) -> None:
    Path("other-seed0.json").write_text(json.dumps(METRICS))
    Path("record.json").write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        compare_runs([Path("record.json"), Path("other-seed0.json")], Path("compare.html"))


def read_csv(content: bytes) -> None:
    Path("run").mkdir(exist_ok=True)
    Path("run/metrics.csv").write_bytes(content)
    read_history(Path("run"))


def names() -> list[bytes]:
    return ["/".join(ODD_NAMES).encode()]


def read_names(content: bytes) -> None:
    """Read a folder whose classes and files have the damaged names, some files empty."""
    shutil.rmtree("folder", ignore_errors=True)
    image = pictures("PNG")[0]
    parts = [part.replace(b"\0", b"") for part in content.split(b"/")]
    parts = [part[:200] for part in parts if part not in (b"", b".", b"..")]
    for part in ("train", "test"):
        for number, name in enumerate(dict.fromkeys(parts)):
            inner = os.path.join(b"folder", part.encode(), name)
            os.makedirs(inner)
            with open(os.path.join(inner, name + b".png"), "wb") as file:
                file.write(image if number else b"")
    for data in read_folder("folder", unreadable="skip"):
        for row in range(len(data)):
            data[row]
    for data in read_folder("folder"):
        data[0]


def kinds() -> Iterator[tuple[str, Kind]]:
    for form in FORMATS:
        yield form, Kind(20, lambda form=form: pictures(form), read_picture)
    yield "arrays", Kind(25, arrays, read_npz)
    yield "packed images", Kind(25, packed, read_npz)
    yield "names in folders", Kind(10, names, read_names)
    yield "checkpoint", Kind(25, checkpoints, read_checkpoint)
    for name, count in (("config.json", 15), ("model.safetensors", 10)):
        document = name.endswith("json")
        yield name, Kind(count, pretrained(name), read_pretrained(name), document)
    yield "configuration", Kind(25, configurations, read_configuration, True)
    whole, record = json.dumps(METRICS).encode(), json.dumps({"metrics": METRICS}).encode()
    yield "metrics and records", Kind(15, lambda: [whole, record], read_metrics, True)
    yield "history", Kind(25, lambda: [HISTORY.encode()], read_csv)


def outcome(kind: Kind, content: bytes) -> tuple[str, str]:
    """Return what came of reading a content, and what is wrong about that, if anything."""
    began = time.perf_counter()
    said = wrong = ""
    try:
        kind.read(content)
    except ValueError as error:
        said = type(error).__name__
        if not re.fullmatch(r"[^\n]+\.", str(error)):
            wrong = f"not one sentence: {error!s:.300}"
    except BaseException as error:
        said = wrong = f"{type(error).__name__}: {error!s:.300}"
    if time.perf_counter() - began > SECONDS:
        wrong = f"took {time.perf_counter() - began:.1f} s"
    if peak() > MEMORY:
        wrong = f"took {peak() / 2**20:.0f} MiB"
    return ("read" if not said else said if not wrong else "wrong"), wrong


def peak() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts that of the parent too in what getrusage returns
        (peak,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(folder: str, share: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    os.chdir(folder)
    sys.path.insert(0, folder)
    Path("strange.py").write_text(CANARY)
    counts: dict[str, Counter] = {}
    wrong = []
    for number, (name, kind) in enumerate(kinds()):
        written = kind.write()
        counts[name] = Counter()
        for index in range(kind.count * share):
            random = np.random.default_rng([seed, number, index])
            content = mutated(written[index % len(written)], random, kind.document)
            what, why = outcome(kind, content)
            counts[name][what] += 1
            if why:
                wrong.append([name, index, why])
    print(json.dumps({
        "counts": counts, "wrong": wrong, "called": Path("called").exists(),
        "peak_mib": peak() / 2**20,
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
