"""What breaks around a run is said in one sentence: its processes, its memory, its folder."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import SafetensorError

from probcl.cli import main
from probcl.cli_errors import LOST_RANK, answer_to_bad_input
from probcl.runs import LOCK, lock_run_dir, make_run_dir
from probcl.training.checkpoint_io import WholeCheckpointIO

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PROBCL = str(Path(sys.executable).with_name("probcl"))
QUICK = [
    "fit", "--model.program=SimCLR", "--model.program.encoder=ConvNet",
    "--model.program.encoder.widths=[4, 8]", "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu", "--data.monitored=50", "--evaluate=false",
]  # fmt: skip
DIGITS = ["--data=Digits", "--data.batch_size=64"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=2"]
TWO += ["--trainer.check_val_every_n_epoch=1"]

KILLED = """
import os, signal, torch
from torch.utils.data import Dataset, get_worker_info

class Killed(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        if row == 17 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 8, 8, dtype=torch.uint8), row % 2
"""
END = """
import os, signal
from lightning.pytorch import Callback

class End(Callback):
    def __init__(self, rank: int, at: str):
        self.rank, self.at = rank, at

    def end(self, at, trainer):
        if at == self.at and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)

    def setup(self, trainer, *_, **__):
        self.end("setup", trainer)

    def on_train_batch_end(self, trainer, *_):
        self.end("step", trainer)

    def on_validation_start(self, trainer, *_):
        self.end("validation", trainer)
"""
OTHER_RANK = """
import os, sys, torch.distributed as dist
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=1, world_size=2)
os._exit(1)
"""
HOLDER = """
import sys, time
from pathlib import Path
from probcl.runs import lock_run_dir
lock = lock_run_dir(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_worker_that_is_killed():
    Path("killed.py").write_text(KILLED)
    data = [f"--data.{part}=killed.Killed" for part in ("train", "test")]
    options = ["--data.batch_size=20", "--data.num_workers=1", "--data.monitored=0"]
    with pytest.raises(SystemExit, match=r"was killed.*memory.* set --data.num_workers to fewer"):
        main([*QUICK, "--data=Datasets", *data, *options])


def test_a_rank_that_dies(here):
    store = here / "store"
    with subprocess.Popen([sys.executable, "-c", OTHER_RANK, store]):
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=2)
        try:
            with pytest.raises(RuntimeError) as lost:
                dist.all_reduce(torch.zeros(1))
        finally:
            dist.destroy_process_group()
    assert answer_to_bad_input(lost.value) == LOST_RANK
    assert answer_to_bad_input(dist.DistBackendError("NCCL error")) == LOST_RANK


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 9 bytes")],
)
def test_memory_that_does_not_suffice(error):
    assert "set --data.batch_size to fewer" in answer_to_bad_input(error)


@pytest.mark.parametrize(
    "error",
    [OSError(28, ""), OSError(27, ""), SafetensorError("No space left on device (os error 28)")],
)
def test_a_full_disk(error):
    assert answer_to_bad_input(error).startswith("the disk is full")


def test_a_disk_that_fills_up_amid_a_checkpoint_says_so_and_leaves_the_last(here):
    """In a process of its own, as its files may grow no larger from then on."""
    path = here / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint({"global_step": 1, "weight": torch.zeros(10)}, path)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        try:
            io.save_checkpoint({"global_step": 2, "weight": torch.zeros(10_000)}, path)
        except Exception as error:
            os._exit(0 if str(answer_to_bad_input(error)).startswith("the disk is full") else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert io.load_checkpoint(path)["global_step"] == 1
    assert [entry.name for entry in here.iterdir()] == ["last.ckpt"]


@pytest.mark.battery
@pytest.mark.parametrize("at", ["setup", "step", "validation"])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_command_says_that_a_rank_has_died(rank, at, here):
    Path("ending.py").write_text(END)
    callback = ["--trainer.callbacks=ending.End", f"--trainer.callbacks.rank={rank}"]
    command = [PROBCL, *QUICK, *DIGITS, *TWO, *callback, f"--trainer.callbacks.at={at}"]
    with Path("said").open("w") as said:
        done = subprocess.run(command, env=ENVIRONMENT, stdout=said, stderr=said, timeout=120)
        assert done.returncode != 0
    if rank == 0:  # the process that was started is the one that died: the other ends by itself
        wait_for(lambda: LOST_RANK in Path("said").read_text())
    lines = [line for line in Path("said").read_text().splitlines() if "Gloo" not in line]
    assert lines == [f"probcl: error: {LOST_RANK}"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_folder_has_one_run_at_a_time_until_its_process_ends(here):
    Path("mine").mkdir()
    command = [sys.executable, "-c", HOLDER, "mine"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        refused = rf"run_dir: another run, process {holder.pid} of .*, writes to the folder mine: "
        with pytest.raises(SystemExit, match=refused):
            main([*QUICK, *DIGITS, "--run_dir=mine"])
        Path("mine/config.yaml").write_text("seed_everything: 0\n")
        with pytest.raises(SystemExit, match=refused):
            main(["fit", "--run_dir=mine", "--ckpt_path=last"])
        assert {path.name for path in Path("mine").iterdir()} == {LOCK, "config.yaml"}
        Path("mine/config.yaml").unlink()
        holder.kill()
    path, lock = make_run_dir("mine", "")
    lock.close()
    assert path == Path("mine")


def test_a_lock_is_not_inherited_by_workers_that_outlive_their_run(here):
    with lock_run_dir(here) as lock:
        assert not os.get_inheritable(lock.fileno())
        child = os.fork()
        if not child:
            try:
                lock_run_dir(here)
            except ValueError:
                os._exit(0)  # a process of its own, which has no part in the lock
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_cannot_be_locked_is_taken_all_the_same(here, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", unknown)
    lock_run_dir(here).close()


def test_runs_without_a_folder_of_their_own_take_the_next(here):
    for name in ("run", "run-2"):
        path, lock = make_run_dir(None, "run")
        lock.close()
        assert path == Path("runs") / name


@pytest.mark.battery
def test_a_run_goes_on_with_its_configuration_on_more_devices(here):
    """Every process reads it, before the first one puts another in its place."""
    main([*QUICK, *DIGITS, "--trainer.max_epochs=1", "--run_dir=mine"])
    command = [PROBCL, "fit", *TWO, "--run_dir=mine", "--ckpt_path=last", "--data.batch_size=32"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (Path("mine") / "config-1.yaml").exists()
    state = torch.load("mine/checkpoints/last.ckpt", weights_only=True)
    assert state["epoch"] == 1


@pytest.mark.battery
def test_of_two_runs_started_at_once_one_is_refused(here):
    command = [PROBCL, *QUICK, *DIGITS, "--trainer.max_epochs=2", "--run_dir=same"]
    runs = [
        subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1]
    (refused,) = (text for text, run in zip(said, runs, strict=True) if run.returncode)
    assert refused.startswith("probcl: error: run_dir: ") and refused.count("\n") == 1
    assert Path("same/checkpoints/last.ckpt").exists()
