"""``probcl fit``, ``test`` and ``predict``: LightningCLI, whose runs have folders and reports."""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks.progress import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from probcl.cli_arguments import (
    config_beside,
    names_a_run,
    program_of,
    with_config,
    with_our_names,
)
from probcl.cli_config import SaveConfig
from probcl.cli_errors import Parser, answer_to_bad_input
from probcl.cli_lines import rank, say, show_our_lines_only
from probcl.data.readers import list_pictures
from probcl.evaluation import Embeddings
from probcl.hub import Pretrained
from probcl.predictions import check_predictions, write_embeddings, write_predictions
from probcl.report import headline, print_summary, write_report
from probcl.runs import (
    TENSORBOARD,
    discard_if_unused,
    is_whole,
    lock_run_dir,
    make_run_dir,
    newest_checkpoint,
    newest_run,
    without_places,
    write_classes,
    write_metrics,
)
from probcl.training import ContrastiveModule, ImageData
from probcl.training.callbacks import ProgressBar, checkpoint_callbacks
from probcl.training.checkpoint_io import WholeCheckpointIO
from probcl.training.history import History
from probcl.training.pictures import test_images

__all__ = ["ProbclCLI", "run"]

DEFAULT, DIGITS = (str(files("probcl") / name) for name in ("default.yaml", "digits.yaml"))

_TRUST = (
    "With --trust the configuration beside it may name classes of any package, whose code runs."
)

DESCRIPTIONS = {
    "fit": "Train a program, evaluate it and write a report.",
    "test": f"Evaluate the checkpoint of a run and write a report. {_TRUST}",
    "predict": f"Write what the checkpoint of a run says of images to one file. {_TRUST}",
}

# How many of the files that cannot be read are named.
SHOWN_FILES = 10

# In which a process that trains with others is told where the run is.
_RUN_DIR = "PROBCL_RUN_DIR"


class ProbclCLI(LightningCLI):
    """LightningCLI whose runs each have a folder, and end with a report."""

    run_dir: Path
    resumed: Path | None = None
    _lock: IO[str] | None = None

    def __init__(self, args: list[str]) -> None:
        self.program = program_of(args)
        before = signal.getsignal(signal.SIGTERM)
        with suppress(ValueError):  # a thread may not
            signal.signal(signal.SIGTERM, self._stop)
        defaults = [DEFAULT] if names_a_run(args) else [DEFAULT, DIGITS]
        try:
            super().__init__(
                ContrastiveModule,
                ImageData,
                subclass_mode_data=True,
                parser_class=Parser,
                parser_kwargs={
                    name: {"description": description, "default_config_files": defaults}
                    for name, description in DESCRIPTIONS.items()
                },
                save_config_callback=SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )
        finally:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, before)
            os.environ.pop(_RUN_DIR, None)
            if hasattr(self, "run_dir") and not rank():
                discard_if_unused(self.run_dir)
            if self._lock:
                self._lock.close()

    def _stop(self, *_: Any) -> None:
        """End where the process is told to; amid a training Lightning does, after the step."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        if trainer is None or not trainer.fit_loop.epoch_loop.batch_progress.total.ready:
            raise SIGTERMException("told to stop before the first step: there is nothing to save.")
        if not trainer.training:
            raise SIGTERMException("told to stop: what was trained is saved, and not evaluated.")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, with the arguments of the Trainer's methods to leave out."""
        fit = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        rest = {"model", "dataloaders", "datamodule", "verbose", "return_predictions"}
        return {"fit": fit, "test": rest, "predict": rest}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of our own, and the defaults of the program that is named."""
        # Those of another class would hold for it too, where both have an argument.
        parser.set_defaults({"model.program": self.program})
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder to write, new or empty (default: runs/<program>-<data>-seed<seed>).",
        )
        parser.add_argument(
            "--evaluate",
            type=bool,
            default=True,
            help="Whether fit ends with an evaluation and a report; test gives them later too.",
        )

        if parser.description != DESCRIPTIONS["predict"]:
            return
        parser.add_argument(
            "--images",
            type=str | None,
            default=None,
            help="Folder of pictures without labels, in place of the test set.",
        )
        parser.add_argument(
            "--output",
            type=str | None,
            default=None,
            help="File to write of them, .npz or .parquet (default: predictions.npz in run_dir).",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and find the run to go on with."""
        given = list(args or ())
        self.config = parser.parse_args(given)
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= int(seed or 0) < 2**32:
            raise ValueError(f"seed_everything must be from 0 to 2^32 - 1, got {seed}.")
        if self.config.subcommand == "fit" and self.config.fit.ckpt_path == "last":
            self._go_on(parser, given)  # from one that is there and whole
        else:
            self._check_checkpoint()

    def _go_on(self, parser: LightningArgumentParser, given: list[str]) -> None:
        """Take up the newest run of these arguments where its newest whole checkpoint is."""
        config = self.config.fit
        run = Path(config.run_dir) if config.run_dir else newest_run(_run_name("fit", config))
        if run and (run / "config.yaml").is_file():
            self.resumed = run
            if not rank():
                self._lock = lock_run_dir(run)
        checkpoint, torn = newest_checkpoint(run) if run else (None, [])
        if run and self.resumed:
            # It says every value: what is null there is not that of the default run's recipe.
            self._subcommand_parsers["fit"].default_config_files = [DEFAULT]
            self.config = parser.parse_args(["fit", f"--config={run / 'config.yaml'}", *given[1:]])
        for path in torn:
            say(f"{path} is not a whole checkpoint: it is left out.")
        if checkpoint is None:
            say("there is no checkpoint to go on from: the run begins anew.")
        else:
            say(f"going on from {checkpoint}, with the configuration of {run}.")
        self.config.fit.ckpt_path = checkpoint and str(checkpoint)

    def _check_checkpoint(self) -> None:
        """Raise ValueError unless the checkpoint that is asked for is there and whole."""
        subcommand = str(self.config.subcommand)
        path = self.config[subcommand].ckpt_path
        if path is None:
            if subcommand != "fit":
                raise ValueError(
                    f"{subcommand} needs the checkpoint of a run: "
                    f"probcl {subcommand} --ckpt_path runs/NAME/checkpoints/last.ckpt"
                )
            return
        if not Path(path).is_file():
            raise ValueError(
                f"ckpt_path: there is no checkpoint {path}: name the .ckpt file of a run, such as "
                "runs/NAME/checkpoints/last.ckpt."
            )
        if subcommand != "fit" and not self.config[subcommand].get("config"):
            raise ValueError(
                f"ckpt_path: there is no config.yaml of the run that {path} is of: name it with "
                "--config."
            )
        if not is_whole(Path(path)):
            raise ValueError(
                f"ckpt_path: {path} is not a whole checkpoint: take another one of its run."
            )

    def before_instantiate_classes(self) -> None:
        """Make the folder of the run, so that a bad one is known before any work is done."""
        subcommand = str(self.subcommand)
        config = self.config[subcommand]
        if subcommand == "test" and config.trainer.limit_test_batches == 0:
            raise ValueError("trainer.limit_test_batches must be above 0 for test, got 0.")
        if subcommand == "predict" and config.output and not config.images:
            raise ValueError(
                f"output is for --images, got {config.output} without: the embeddings of the data "
                "go to embeddings.npz in run_dir."
            )
        if rank():  # another process makes it, and writes to it
            self.run_dir = Path(os.environ.get(_RUN_DIR) or config.run_dir or "runs")
        elif self.resumed:
            self.run_dir = self.resumed
        else:
            self.run_dir, self._lock = make_run_dir(config.run_dir, _run_name(subcommand, config))
        os.environ[_RUN_DIR] = str(self.run_dir)  # for processes that this one starts

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the run's logger, checkpoints and progress bar to the Trainer's own."""
        config = self._get(self.config_init, "trainer")
        callbacks = _as_list(config["callbacks"])
        history = History(self.run_dir)
        keep = config["enable_checkpointing"] is not False and not config["fast_dev_run"]
        if keep and self.subcommand == "fit":
            held_out = self.datamodule.validation > 0
            callbacks += checkpoint_callbacks(self.run_dir / "checkpoints", held_out, history)
        shown = config["enable_progress_bar"] is not False
        if shown and not any(isinstance(callback, AnyProgressBar) for callback in callbacks):
            callbacks.append(ProgressBar())
        try:
            return super().instantiate_trainer(
                default_root_dir=self.run_dir,
                callbacks=callbacks,
                logger=[history, *_tensorboard(self.run_dir), *_as_list(config["logger"])],
                plugins=[WholeCheckpointIO(), *_as_list(config["plugins"])],
                **kwargs,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"trainer takes no such argument: {error}") from error

    def after_fit(self) -> None:
        """Evaluate the trained program on one device, unless that is to be left out."""
        if not self.trainer.is_global_zero:
            return
        wanted = self._get(self.config, "evaluate") and self.trainer.limit_test_batches != 0
        if wanted:
            self._evaluating().test(self.model, datamodule=self.datamodule, verbose=False)
        if wanted or self._get(self.config, "trainer").fast_dev_run:
            self.after_test()
        else:
            write_classes(self.run_dir, self.datamodule.classes)
            self._share({})
            checkpoint = self.run_dir / "checkpoints" / "last.ckpt"
            there = f"probcl test --ckpt_path {checkpoint} gives the numbers."
            say(f"not evaluated: {there if checkpoint.is_file() else 'no checkpoint was written.'}")

    def _evaluating(self) -> Trainer:
        """Return the Trainer, or where it has several devices another one with one of them."""
        if self.trainer.world_size == 1:
            return self.trainer
        torch.distributed.destroy_process_group()
        return Trainer(
            accelerator=self._get(self.config, "trainer").accelerator, devices=1,
            precision=self.trainer.precision, logger=False, enable_checkpointing=False,
            enable_model_summary=False, callbacks=[ProgressBar()], default_root_dir=self.run_dir,
        )  # fmt: skip

    def after_test(self) -> None:
        """Write the numbers, then share what was trained, then draw the report."""
        if self._get(self.config, "trainer").fast_dev_run:
            say("fast_dev_run: every part ran on a batch; there is no report.")
            return
        evaluation, seconds = self.model.evaluation, self.model.seconds
        metrics = evaluation.metrics | seconds
        write_metrics(self.run_dir, metrics)
        write_classes(self.run_dir, self.datamodule.classes)
        if self.subcommand == "fit":
            self._share(metrics)
        images = partial(test_images, self.datamodule)
        match = getattr(self.model.program, "match_probability", None)
        path = self.run_dir / "report.html"
        write_report(evaluation, path, run_dir=self.run_dir, images=images, match=match)
        print_summary(metrics, evaluation.answers)
        self._say_unreadable()
        say(f"report: {path}")

    def _say_unreadable(self) -> None:
        unreadable = sorted(self.datamodule.unreadable)
        if unreadable:
            names = ", ".join(unreadable[:SHOWN_FILES]) + ", ..." * (len(unreadable) > SHOWN_FILES)
            say(f"left out {len(unreadable)} files that cannot be read: {names}")

    def _share(self, metrics: Mapping[str, float]) -> None:
        """Write the weights and the configuration of the program, for others to load."""
        self._dump_config()
        shape = self.datamodule.example.shape[1:]
        program, data = (
            without_places(part)
            for part in (self.config_dump["model"]["program"], self.config_dump["data"])
        )
        shared = Pretrained(program, tuple(shape), data=data, metrics=headline(metrics))
        shared.program.load_state_dict(self.model.program.state_dict())
        folder = self.run_dir / "pretrained"
        (folder / "README.md").unlink(missing_ok=True)  # a card with the numbers of other weights
        shared.save_pretrained(folder)

    def predict(self, **kwargs: Any) -> None:
        """Write what is said of the training and the test set, or of pictures without labels."""
        if self.trainer.world_size > 1:
            raise ValueError("trainer.devices must be 1 for predict: its rows are in one file.")
        images = self._get(self.config, "images")
        if images is None:
            parts = dict(zip(("train", "test"), self.trainer.predict(**kwargs) or (), strict=False))
            write_classes(self.run_dir, self.datamodule.classes)
            say(f"embeddings: {write_embeddings(self.run_dir, parts)}")
            return
        output = Path(self._get(self.config, "output") or self.run_dir / "predictions.npz")
        check_predictions(output)
        pictures = self.datamodule.pictures = list_pictures(images)
        names = [os.path.relpath(path, Path(images).expanduser()) for path in pictures]
        batches = self.trainer.predict(**kwargs) or ()
        train, new = (Embeddings.concatenate([x for x in part if x]) for part in batches)
        written = write_predictions(output, names, train, new, self.datamodule.classes)
        say(f"predictions: {written}")
        self._say_unreadable()


def run(args: list[str]) -> None:
    """Run a subcommand, and answer bad input with one sentence.

    Args:
        args: Arguments, the subcommand first.
    """
    show_our_lines_only()
    try:
        trust = "--trust" in args
        args = [arg for arg in args if arg != "--trust"]
        config = config_beside(args)
        if config is not None:
            args = with_config(args, config, trust)
            say(f"configuration: {config}")
        ProbclCLI(with_our_names(args))
    except SIGTERMException as error:
        say(str(error) or "told to stop: a checkpoint is written; go on with --ckpt_path last.")
        sys.exit(128 + signal.SIGTERM)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        answer = answer_to_bad_input(error)
        if answer is None:
            raise
        sys.exit(f"probcl: error: {answer}")


def _run_name(subcommand: str, config: Namespace) -> str:
    """Name a run after what it trains, or after the run that its checkpoint is of."""
    if subcommand == "fit":
        program, data = (
            (part.init_args.get("name") or part.class_path.rsplit(".", 1)[-1]).lower()
            for part in (config.model.program, config.data)
        )
        return f"{program}-{data}-seed{config.seed_everything}"
    return f"{Path(config.ckpt_path).absolute().parent.parent.name}-{subcommand}"


def _tensorboard(run_dir: Path) -> list[Logger]:
    """Return TensorBoard's logger if it is installed."""
    installed = find_spec("tensorboard")
    return [TensorBoardLogger(run_dir, name=TENSORBOARD, version="")] if installed else []


def _as_list(value: Any) -> list[Any]:
    """Return what a Trainer's argument takes as one object, several, or a switch."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
