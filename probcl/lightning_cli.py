"""``probcl fit``, ``test`` and ``predict``: LightningCLI, whose runs have folders and reports."""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks.progress import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

import probcl.data
import probcl.infer
import probcl.nn
import probcl.programs
import probcl.training
from probcl.cli_errors import answer_to_bad_input, parser_sentence
from probcl.evaluation import Embeddings
from probcl.hub import Pretrained
from probcl.report import headline, print_summary, write_report
from probcl.runs import (
    TENSORBOARD,
    config_of_run,
    discard_if_unused,
    is_whole,
    make_run_dir,
    newest_checkpoint,
    newest_run,
    set_aside,
    write_metrics,
)
from probcl.training import ContrastiveModule, ImageData
from probcl.training.callbacks import ProgressBar, checkpoint_callbacks

__all__ = ["ProbclCLI", "run"]

DEFAULT, DIGITS = (str(files("probcl") / name) for name in ("default.yaml", "digits.yaml"))

DESCRIPTIONS = {
    "fit": "Train a program, evaluate it and write a report.",
    "test": "Evaluate the checkpoint of a run and write a report.",
    "predict": "Write the embeddings of the images by the checkpoint of a run to one .npz file.",
}

# Arguments by which a run is another one than the default run.
_NAMES_A_RUN = r"(-c|--config|--data|--model|--model\.program)(\.class_path)?(=|$)"

# Options whose value may be the name of a class; others, such as --data.root, take any text.
_TAKES_A_CLASS = r"--data$|--data\.augmentation|--data\.out_of_distribution$|--model\."

# Options whose value may be the name of a data set.
_TAKES_A_DATA_SET = r"--data(\.out_of_distribution)?"

# How many of the files that cannot be read are named.
SHOWN_FILES = 10

# In which a process that trains with others is told where the run is.
_RUN_DIR = "PROBCL_RUN_DIR"


class ProbclCLI(LightningCLI):
    """LightningCLI whose runs each have a folder, and end with a report."""

    run_dir: Path
    resumed: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        finally:
            os.environ.pop(_RUN_DIR, None)
            if hasattr(self, "run_dir") and not _rank():
                discard_if_unused(self.run_dir)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, with the arguments of the Trainer's methods to leave out."""
        fit = {"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        rest = {"model", "dataloaders", "datamodule", "verbose", "return_predictions"}
        return {"fit": fit, "test": rest, "predict": rest}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder of the run, and whether a training ends with an evaluation."""
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

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, with the configuration of the run that a checkpoint is of."""
        given = sys.argv[1:] if args is None else list(args)
        given = _with_our_classes(_with_config_of_run(given))
        self.config = parser.parse_args(given)
        if self.config.subcommand == "fit" and self.config.fit.ckpt_path == "last":
            self._go_on(parser, given)
        self._check_checkpoint()

    def _go_on(self, parser: LightningArgumentParser, given: list[str]) -> None:
        """Take up the newest run of these arguments where its newest whole checkpoint is."""
        config = self.config.fit
        run = Path(config.run_dir) if config.run_dir else newest_run(_run_name("fit", config))
        checkpoint, torn = newest_checkpoint(run) if run else (None, [])
        if run and (run / "config.yaml").is_file():
            self.resumed = run
            self.config = parser.parse_args(["fit", f"--config={run / 'config.yaml'}", *given[1:]])
        for path in torn:
            _say(f"{path} is not a whole checkpoint: it is left out.")
        if checkpoint is None:
            _say("there is no checkpoint to go on from: the run begins anew.")
        else:
            _say(f"going on from {checkpoint}.")
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
        if _rank():  # another process makes it, and writes to it
            self.run_dir = Path(os.environ.get(_RUN_DIR) or config.run_dir or "runs")
        elif self.resumed:
            self.run_dir = self.resumed
            set_aside(self.run_dir / "metrics.csv")
            set_aside(self.run_dir / "config.yaml")
        else:
            self.run_dir = make_run_dir(config.run_dir, _run_name(subcommand, config))
        os.environ[_RUN_DIR] = str(self.run_dir)  # for processes that this one starts

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the run's logger, checkpoints and progress bar to the Trainer's own."""
        config = self._get(self.config_init, "trainer")
        callbacks = _as_list(config["callbacks"])
        keep = config["enable_checkpointing"] is not False and not config["fast_dev_run"]
        if keep and self.subcommand == "fit":
            held_out = self.datamodule.validation > 0
            callbacks += checkpoint_callbacks(self.run_dir / "checkpoints", held_out)
        shown = config["enable_progress_bar"] is not False
        if shown and not any(isinstance(callback, AnyProgressBar) for callback in callbacks):
            callbacks.append(ProgressBar())
        loggers = [*_loggers(self.run_dir), *_as_list(config["logger"])]
        return super().instantiate_trainer(
            default_root_dir=self.run_dir, callbacks=callbacks, logger=loggers, **kwargs
        )

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
            self._share({})
            checkpoint = self.run_dir / "checkpoints" / "last.ckpt"
            _say(f"not evaluated: probcl test --ckpt_path {checkpoint} gives the numbers.")

    def _evaluating(self) -> Trainer:
        """Return the Trainer, or where it has several devices another one with one of them."""
        if self.trainer.world_size == 1:
            return self.trainer
        torch.distributed.destroy_process_group()
        return Trainer(
            accelerator=self._get(self.config, "trainer").accelerator,
            devices=1,
            precision=self.trainer.precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[ProgressBar()],
            default_root_dir=self.run_dir,
        )

    def after_test(self) -> None:
        """Write the numbers, then share what was trained, then draw the report."""
        if self._get(self.config, "trainer").fast_dev_run:
            _say("fast_dev_run: every part ran on a batch; there is no report.")
            return
        evaluation, seconds = self.model.evaluation, self.model.seconds
        metrics = evaluation.metrics | seconds
        write_metrics(self.run_dir, metrics)
        if self.subcommand == "fit":
            self._share(metrics)
        path = write_report(evaluation, self.run_dir / "report.html", run_dir=self.run_dir)
        print_summary(metrics, evaluation.answers)
        unreadable = sorted(self.datamodule.unreadable)
        if unreadable:
            names = ", ".join(unreadable[:SHOWN_FILES]) + ", ..." * (len(unreadable) > SHOWN_FILES)
            _say(f"left out {len(unreadable)} files that cannot be read: {names}")
        _say(f"report: {path}")

    def _share(self, metrics: Mapping[str, float]) -> None:
        """Write the weights and the configuration of the program, for others to load."""
        self._dump_config()
        shape = self.datamodule.example.shape[1:]
        program, data = self.config_dump["model"]["program"], self.config_dump["data"]
        shown = headline(metrics)
        shared = Pretrained(program, tuple(shape), data=data, metrics=shown)
        shared.program.load_state_dict(self.model.program.state_dict())
        shared.save_pretrained(self.run_dir / "pretrained")

    def predict(self, **kwargs: Any) -> None:
        """Write the embeddings of the training and the test set to one ``.npz`` file."""
        train, test = self.trainer.predict(**kwargs) or ([], [])
        path = self.run_dir / "embeddings.npz"
        np.savez(path, **_arrays({"train": train, "test": test}))
        Console(highlight=False).print(f"embeddings: {path}", markup=False, soft_wrap=True)


def run(args: list[str]) -> None:
    """Run a subcommand, and answer bad input with one sentence.

    Args:
        args: Arguments, the subcommand first.
    """
    _show_our_lines_only()
    sys.path.append(str(Path.cwd()))  # so that classes of the user's own are found by name
    try:
        ProbclCLI(
            ContrastiveModule,
            ImageData,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs=_parser_kwargs(args),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )
    except SIGTERMException:
        _say("told to stop: a checkpoint is written; go on with --ckpt_path last.")
        sys.exit(128 + signal.SIGTERM)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        answer = answer_to_bad_input(error)
        if answer is None:
            raise
        sys.exit(f"probcl: error: {answer}")


def _parser_kwargs(args: list[str]) -> dict[str, Any]:
    """Return the defaults of each subcommand; those of the default run, if no other is named."""
    named = any(re.match(_NAMES_A_RUN, arg) for arg in args)
    defaults = [DEFAULT] if named else [DEFAULT, DIGITS]
    return {
        name: {"description": description, "default_config_files": defaults}
        for name, description in DESCRIPTIONS.items()
    }


class Parser(LightningArgumentParser):
    """Parser that answers bad input with one sentence instead of its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the reason and exit with status 2."""
        sys.stderr.write(f"probcl: error: {parser_sentence(message)}\n")
        sys.exit(2)


def _run_name(subcommand: str, config: Namespace) -> str:
    """Name a run after what it trains, or after the run that its checkpoint is of."""
    if subcommand == "fit":
        program, data = (
            (part.init_args.get("name") or part.class_path.rsplit(".", 1)[-1]).lower()
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
        name, given = (option, value) if equals else (before, arg)
        if re.fullmatch(_TAKES_A_DATA_SET, name) and given in probcl.data.DATASETS:
            expanded.append(f"{name}=probcl.training.Named" if equals else "probcl.training.Named")
            arg = f"{name}.name={given}"
        elif not equals and re.match(_TAKES_A_CLASS, before):
            arg = paths.get(arg, arg)
        elif re.match(_TAKES_A_CLASS, option):
            arg = f"{option}{equals}{paths.get(value, value)}"
        expanded.append(arg)
    return expanded


def _arrays(batches: dict[str, list[Embeddings | None]]) -> dict[str, Any]:
    """Return what is known of each image as arrays, with a row for each image of both splits."""
    sets = {
        split: Embeddings.concatenate([part for part in parts if part is not None])
        for split, parts in batches.items()
    }
    arrays = [_of_split(part) for part in sets.values()]
    joined = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
    return joined | {"split": np.repeat(list(sets), [len(part) for part in sets.values()])}


def _of_split(part: Embeddings) -> dict[str, Any]:
    arrays: dict[str, Any] = {"embedding": part.embedding, "row": part.rows}
    if part.labels is not None:
        arrays["label"] = part.labels
    if part.posterior:
        blocks = part.posterior
        parameters = [name for name in blocks[0].arg_constraints if hasattr(blocks[0], name)]
        names = {f"posterior_{name}": name for name in parameters}
        names |= {name: name for name in ("mean_direction", "mean_resultant_length")}
        with torch.no_grad():
            arrays |= {k: torch.cat([getattr(q, n) for q in blocks]) for k, n in names.items()}
            with suppress(NotImplementedError):
                arrays["entropy"] = torch.cat([q.entropy() for q in blocks])
    return {name: values.cpu().numpy() for name, values in arrays.items()}


def _loggers(run_dir: Path) -> list[Logger]:
    """Return the loggers of every run; TensorBoard's if it is installed."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="", version="")]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(run_dir, name=TENSORBOARD, version=""))
    return loggers


def _rank() -> int:
    """Return the number of this process among those that train together."""
    return getattr(rank_zero_only, "rank", None) or 0


def _say(text: str) -> None:
    """Print a line, on one of several processes."""
    if not _rank():
        Console(highlight=False).print(text, markup=False, soft_wrap=True)


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
