"""Kill runs at random moments, take them up again, and say what came of it.

``python kill_worker.py FOLDER KILLS`` prints a JSON document. Everything is imported once: each run
is a child of this process, made by a fork.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from probcl.cli import main as probcl
from probcl.files import is_partial
from probcl.runs import newest_checkpoint, read_history

EPOCHS = 10
OTHER_DISK = Path("/dev/shm")


def arguments(data: Path, folder: Path) -> list[str]:
    return [
        "fit", "--model.program=VSimCLR", "--model.program.encoder=ConvNet",
        "--model.program.encoder.widths=[4, 8]", "--data=Arrays", f"--data.path={data}",
        "--data.batch_size=20", "--data.monitored=20", f"--trainer.max_epochs={EPOCHS}",
        "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--evaluate=false",
        f"--run_dir={folder}", "--ckpt_path=last",
    ]  # fmt: skip


def begun(args: list[str], log: Path, largest_file: int | None = None) -> int:
    """Begin a run, and return the number of its process."""
    child = os.fork()
    if child:
        return child
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        probcl(args)
        os._exit(0)
    except SystemExit as error:
        print(error.code, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_a_checkpoint(child: int, folder: Path) -> None:
    """Wait until a run has written a checkpoint, or has ended."""
    path = folder / "checkpoints/last.ckpt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    while not path.exists() or path.stat().st_mtime_ns == before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.005)


def weights(folder: Path) -> bytes:
    """Return every number that a training goes on from, as bytes."""
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    parts = {name: state[name] for name in ("state_dict", "optimizer_states", "lr_schedulers")}
    return repr((numbers(parts), state["global_step"], state["epoch"])).encode()


def numbers(node):
    if isinstance(node, torch.Tensor):
        return node.numpy().tobytes()
    if isinstance(node, dict):
        return [(name, numbers(value)) for name, value in node.items()]
    return [numbers(value) for value in node] if isinstance(node, list | tuple) else node


def step_of(folder: Path) -> int:
    """Return the step of the newest checkpoint, -1 if there is none; none may be torn."""
    newest, torn = newest_checkpoint(folder)
    assert not torn, torn
    step = -1 if newest is None else torch.load(newest, weights_only=True)["global_step"]
    assert step >= 0 or not list(folder.glob("checkpoints/*.ckpt"))
    return step


def main(base: Path, kills: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    random = np.random.default_rng()
    data = base / "images.npz"
    images = random.integers(0, 256, (100, 1, 8, 8), np.uint8)
    labels = np.arange(100) % 4
    np.savez(data, train_images=images, train_labels=labels, test_images=images,
             test_labels=labels)  # fmt: skip
    began = time.perf_counter()
    log = base / "log.txt"
    child = begun(arguments(data, base / "whole"), log)
    wait_for_a_checkpoint(child, base / "whole")
    first = time.perf_counter()
    assert ended(child) == 0
    training, seconds = (time.perf_counter() - moment for moment in (first, began))
    whole, epochs = weights(base / "whole"), set(read_history(base / "whole")["epoch"])
    said = dict.fromkeys(("kills", "before a checkpoint", "amid a write", "runs", "full disks",
                          "other disk"), 0)  # fmt: skip
    places = [base] + [OTHER_DISK / base.name] * os.access(OTHER_DISK, os.W_OK)
    while said["kills"] < kills:
        place = places[said["runs"] % len(places)]
        folder = place / f"run{said['runs']}"
        place.mkdir(exist_ok=True)
        before = -1
        for _ in range(3):
            child = begun(arguments(data, folder), log)
            if random.random() < 0.7:  # amid the training; else at any time
                wait_for_a_checkpoint(child, folder)
                time.sleep(random.uniform(0, training))
            else:
                time.sleep(random.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            if ended(child) != -signal.SIGKILL:
                break  # it had come to its end
            said["kills"] += 1
            said["other disk"] += place != base
            after = step_of(folder)
            assert after >= before, (before, after)
            before = after
            said["before a checkpoint"] += after < 0
            said["amid a write"] += any(is_partial(path) for path in folder.rglob("*"))
        before = step_of(folder)
        if said["runs"] % 3 == 0 and before >= 0:  # a disk that is full, amid a checkpoint
            limit = (folder / "checkpoints/last.ckpt").stat().st_size // 2
            code = ended(begun(arguments(data, folder), log, limit))
            assert step_of(folder) == before
            said["full disks"] += code == 1 and "the disk is full" in log.read_text()[-500:]
        assert ended(begun(arguments(data, folder), log)) == 0, log.read_text()[-3000:]
        assert weights(folder) == whole, folder
        assert set(read_history(folder)["epoch"]) == epochs
        said["runs"] += 1
    print(json.dumps(said | {"seconds of a run": seconds, "of its training": training}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
