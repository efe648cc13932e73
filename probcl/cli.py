"""The command ``probcl``: fit, test and predict from a configuration."""

import logging
import re
import sys
import traceback
import warnings
from importlib.resources import files
from importlib.util import find_spec
from inspect import isabstract
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.progress import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

import probcl.data
import probcl.infer
import probcl.nn
import probcl.programs
import probcl.training
from probcl.evaluation import Embeddings
from probcl.report import print_summary, write_report
from probcl.runs import TENSORBOARD, config_of_run, discard_if_unused, make_run_dir
from probcl.training import ContrastiveModule, ImageData
from probcl.training.progress import ProgressBar

__all__ = ["ProbclCLI", "main"]

DEFAULT = str(files("probcl").joinpath("default.yaml"))

# Options whose value may be the name of a class; others, such as --data.root, take any text.
_TAKES_A_CLASS = r"--data$|--data\.augmentation|--model\."

# How PyTorch begins the message of an error that a loader's worker has met.
_FROM_WORKER = "Caught ValueError in DataLoader worker"


class ProbclCLI(LightningCLI):
    """LightningCLI whose runs each have a folder, and end with a report."""

    run_dir: Path

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        finally:
            if hasattr(self, "run_dir"):
                discard_if_unused(self.run_dir)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, with the arguments of the Trainer's methods to leave out."""
        fit = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        rest = {"model", "dataloaders", "datamodule", "verbose", "return_predictions"}
        return {"fit": fit, "test": rest, "predict": rest}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder of the run."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder to write, new or empty (default: runs/<program>-<data>-seed<seed>).",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, with the configuration of the run that a checkpoint is of."""
        given = sys.argv[1:] if args is None else list(args)
        self.config = parser.parse_args(_with_our_classes(_with_config_of_run(given)))
        self._check_checkpoint()

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
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"ckpt_path: {path} is not a whole checkpoint: take another one of its run."
            ) from error

    def before_instantiate_classes(self) -> None:
        """Make the folder of the run, so that a bad one is known before any work is done."""
        subcommand = str(self.subcommand)
        config = self.config[subcommand]
        self.run_dir = make_run_dir(config.run_dir, _run_name(subcommand, config))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the run's logger, checkpoints and progress bar to the Trainer's own."""
        config = self._get(self.config_init, "trainer")
        callbacks = _as_list(config["callbacks"])
        keep = config["enable_checkpointing"] is not False and not config["fast_dev_run"]
        if keep and self.subcommand == "fit":
            callbacks.append(
                ModelCheckpoint(self.run_dir / "checkpoints", save_last=True, save_top_k=0)
            )
        shown = config["enable_progress_bar"] is not False
        if shown and not any(isinstance(callback, AnyProgressBar) for callback in callbacks):
            callbacks.append(ProgressBar())
        loggers = [*_loggers(self.run_dir), *_as_list(config["logger"])]
        trainer = super().instantiate_trainer(
            default_root_dir=self.run_dir, callbacks=callbacks, logger=loggers, **kwargs
        )
        if trainer.world_size > 1:
            raise ValueError(
                f"a run has one device for now, got {trainer.world_size}: set --trainer.devices 1 "
                "and --trainer.num_nodes 1."
            )
        return trainer

    def after_fit(self) -> None:
        """Evaluate the trained program and write its report."""
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self.after_test()

    def after_test(self) -> None:
        """Write the report, and print its numbers and where it is."""
        if self._get(self.config, "trainer").fast_dev_run:
            Console().print("fast_dev_run: every part ran on a batch; there is no report.")
            return
        evaluation, seconds = self.model.evaluation, self.model.seconds
        self._dump_config()
        path = write_report(self.run_dir, evaluation, yaml.safe_dump(self.config_dump), seconds)
        print_summary(evaluation, seconds, path, sorted(self.datamodule.unreadable))

    def predict(self, **kwargs: Any) -> None:
        """Write the embeddings of the training and the test set to one ``.npz`` file."""
        train, test = self.trainer.predict(**kwargs) or ([], [])
        path = self.run_dir / "embeddings.npz"
        np.savez(path, **_arrays({"train": train, "test": test}))
        Console(highlight=False).print(f"embeddings: {path}", markup=False, soft_wrap=True)


def main(args: list[str] | None = None) -> None:
    """Run the command ``probcl``.

    Args:
        args: Arguments after the command's name; by default the process's own.
    """
    _show_our_lines_only()
    sys.path.append(str(Path.cwd()))  # so that classes of the user's own are found by name
    try:
        ProbclCLI(
            ContrastiveModule,
            ImageData,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={
                name: {"default_config_files": [DEFAULT]} for name in ProbclCLI.subcommands()
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        answer = _answer_to_bad_input(error)
        if answer is None:
            raise
        sys.exit(f"probcl: error: {answer}")


class Parser(LightningArgumentParser):
    """Parser that answers bad input with one sentence instead of its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the reason and exit with status 2."""
        sys.stderr.write(f"probcl: error: {_parser_sentence(message)}\n")
        sys.exit(2)


def _run_name(subcommand: str, config: Namespace) -> str:
    """Name a run after what it trains, or after the run that its checkpoint is of."""
    if subcommand == "fit":
        program, data = (
            part.class_path.rsplit(".", 1)[-1].lower()
            for part in (config.model.program, config.data)
        )
        return f"{program}-{data}-seed{config.seed_everything}"
    return f"{Path(config.ckpt_path).absolute().parent.parent.name}-{subcommand}"


def _with_config_of_run(args: list[str]) -> list[str]:
    """Begin the arguments with the configuration beside a checkpoint, unless one is given."""
    given = any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args)
    if args[:1] not in (["test"], ["predict"]) or given:
        return args
    for arg, following in pairwise([*args, ""]):
        if arg == "--ckpt_path" or arg.startswith("--ckpt_path="):
            config = config_of_run(arg.partition("=")[2] or following)
            if config is not None:
                return [args[0], f"--config={config}", "--run_dir=null", *args[1:]]
    return args


def _with_our_classes(args: list[str]) -> list[str]:
    """Put the import path for the name of a class of ours, which torchvision may have too."""
    paths: dict[str, str] = {}
    for package in (probcl.data, probcl.infer, probcl.nn, probcl.programs, probcl.training):
        paths |= {name: f"{package.__name__}.{name}" for name in package.__all__}
    expanded = []
    for before, arg in pairwise(["", *args]):
        option, equals, value = arg.partition("=")
        if not equals and re.match(_TAKES_A_CLASS, before):
            arg = paths.get(arg, arg)
        elif re.match(_TAKES_A_CLASS, option):
            arg = f"{option}{equals}{paths.get(value, value)}"
        expanded.append(arg)
    return expanded


def _arrays(batches: dict[str, list[Embeddings]]) -> dict[str, Any]:
    """Return the embeddings of each split as arrays with a row for each image."""
    sets = {
        split: Embeddings.concatenate([part for part in parts if part is not None])
        for split, parts in batches.items()
    }
    whole = Embeddings.concatenate(list(sets.values()))
    return {
        "embedding": whole.embedding.numpy(),
        **{f"posterior_{name}": value.numpy() for name, value in whole.parameters.items()},
        **{f"uncertainty_{name}": value.numpy() for name, value in whole.scores.items()},
        "label": whole.labels.numpy(),
        "index": whole.index.numpy(),
        "split": np.repeat(list(sets), [len(part) for part in sets.values()]),
    }


def _loggers(run_dir: Path) -> list[Logger]:
    """Return the loggers of every run; TensorBoard's if it is installed."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="", version="")]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(run_dir, name=TENSORBOARD, version=""))
    return loggers


def _show_our_lines_only() -> None:
    """Silence the frameworks' hints and notices; their errors still show."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pyro"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\b")


def _as_list(value: Any) -> list[Any]:
    """Return what a Trainer's argument takes as one object, several, or a switch."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _parser_sentence(message: str) -> str:
    """Turn a message of the parser into one sentence."""
    message = " ".join(message.split())
    key = re.search(r'Parser key "([\w.]+)"', message)
    name = re.search(r"given class_path '([^']+)'|import path string: (\S+)", message)
    wrong = re.search(
        r"Expected an? (?:<class '(\w+)'>|typing\.(\S+?\]))\. Got value: (.*)", message
    )
    if key and name:
        known = ""
        if key[1].endswith("program"):
            named = (getattr(probcl.programs, name) for name in probcl.programs.__all__)
            programs = (program.__name__ for program in named if not isabstract(program))
            known = f"one of {', '.join(sorted(programs))}, or "
        missing = name[1] or name[2]
        if missing.startswith("lightly."):
            return f"{key[1]}: {missing} needs lightly: pip install 'probcl[baselines]'."
        return (
            f"{key[1]}: there is no class {missing}: name {known}a class by its import path, as "
            "package.module.Class."
        )
    if key and wrong:
        return f"{key[1]} must be {wrong[1] or wrong[2]}, got {wrong[3]}."
    if message.startswith("unrecognized arguments"):
        return f"{message}: see probcl fit --help for those there are."
    return message


def _answer_to_bad_input(error: BaseException | None) -> str | None:
    """Return what to say where an error is an answer to bad input rather than a defect."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if isinstance(error, KeyboardInterrupt):
            return "interrupted: the run has no report; its last checkpoint stays."
        if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error):
            first = str(error).splitlines()[1].strip()
            return f"the checkpoint is not of this program and encoder: {first}"
        if isinstance(error, MisconfigurationException) and "backend found" in str(error):
            return (
                "accelerator: PyTorch finds no GPU on this machine: set --trainer.accelerator cpu, "
                "or install its drivers."
            )
        if isinstance(error, ValueError) and str(error).startswith(_FROM_WORKER):
            *traceback_lines, last = str(error).strip().splitlines()
            file = [line for line in traceback_lines if line.lstrip().startswith("File ")][-1]
            if str(Path(__file__).parent) in file:
                return last.removeprefix("ValueError: ")
        if isinstance(error, MisconfigurationException) or (ours and isinstance(error, ValueError)):
            return str(error).splitlines()[0]  # Pyro adds the shapes of the trace below
        error = error.__cause__ or error.__context__
    return None
