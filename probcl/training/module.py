"""The LightningModule that trains any program by its evidence lower bound."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn.parameter import is_lazy

from probcl.checks import check_count
from probcl.evaluation import Embeddings, Evaluation, rank_correlation
from probcl.infer import ContrastiveELBO
from probcl.infer.divergence import KL
from probcl.programs import Program
from probcl.programs.program import PointProgram
from probcl.randomness import seeded
from probcl.training.batch import Batch, Part, as_batch
from probcl.training.callbacks import Materialize, Monitor, RequireFinite, Throughput
from probcl.training.datamodule import ImageData
from probcl.training.evaluation import embed, encode, evaluate_parts, gather
from probcl.training.optimisation import WarmupCosine, parameter_groups
from probcl.training.sampler import derived_seed

__all__ = ["ContrastiveModule"]


class ContrastiveModule(LightningModule):
    """Train a program by ``ContrastiveELBO`` with one optimizer, warm-up and a cosine.

    It takes an ``ImageData``, or anyone's loader of ``(views, labels)`` or of views only:
    ``Trainer.fit(module, train_dataloaders=loader)``.

    Gradients may be accumulated over batches and clipped by the Trainer
    (``accumulate_grad_batches``, ``gradient_clip_val``). But contrastive batches do not accumulate:
    an anchor is compared with the embeddings of its own batch only, so four batches of 128 are not
    one of 512.

    After ``Trainer.test``, ``evaluation`` holds what ``probcl.evaluation.evaluate`` says of the
    embeddings; ``seconds`` holds how long training and evaluation took.

    Args:
        program: The model, guide and encoder.
        kl: How the ELBO estimates the KL of the posterior, as ``ContrastiveELBO`` takes it.
        annealing: Step to the weight of the KL, such as ``probcl.infer.LinearAnnealing``; None for
            1 throughout.
        optimizer: Parameters to an optimizer; ``lightly.utils.lars.LARS`` (extra ``baselines``)
            for large batches, whose rates adapt only where there is a weight decay.
        reference_batch_size: Number of images in a batch that the learning rate is meant for: it
            is scaled in proportion to the batch, of all devices together. None for no scaling.
        warmup_epochs: Epochs in which the learning rate rises along a line. By default 10 where a
            batch has more than 256 images, but not more than a tenth of the training; else 0.
        decay_all: Whether weight decay, if the optimizer has any, holds for biases and
            normalisations too; for single numbers, such as a learned temperature, it never does.
        compile_encoder: Whether ``torch.compile`` compiles the encoder.
        channels_last: Whether the encoder's weights lie in memory with the channels last, which
            suits convolutions in low precision on a GPU.
        freeze_encoder: Whether only the rest of the program is trained; the statistics of the
            encoder's batch normalisations stay too.

    Raises:
        ValueError: If ``reference_batch_size`` or ``warmup_epochs`` is out of range, or there is no
            KL to anneal.
    """

    def __init__(
        self,
        program: Program,
        kl: KL = "auto",
        annealing: Callable[[int], float] | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        reference_batch_size: int | None = None,
        warmup_epochs: float | None = None,
        decay_all: bool = True,
        compile_encoder: bool = False,
        channels_last: bool = False,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        if reference_batch_size is not None:
            check_count("reference_batch_size", reference_batch_size)
        if warmup_epochs is not None and not 0 <= warmup_epochs < math.inf:
            raise ValueError(f"warmup_epochs must be at least 0 and finite, got {warmup_epochs}.")
        without = isinstance(program, PointProgram) or getattr(program, "beta", None) == 0
        if annealing is not None and without:
            raise ValueError(
                "annealing weighs the KL, and the program has none: leave it out, or give the "
                "program a beta above 0."
            )
        self.program = program
        self.elbo = ContrastiveELBO(kl)
        self.annealing = annealing
        self.optimizer = optimizer
        self.reference_batch_size = reference_batch_size
        self.warmup_epochs = warmup_epochs
        self.decay_all = decay_all
        self.compile_encoder = compile_encoder
        self.channels_last = channels_last
        self.freeze_encoder = freeze_encoder
        self.evaluation: Evaluation | None = None
        self.seconds: dict[str, float] = {}
        self._batch_size = 0
        self._earlier_pace: dict[str, int] | None = None
        self._accumulating = False  # whether there are gradients that no step has taken yet
        self._gradients: dict[str, Tensor] = {}  # those of a checkpoint
        self._collected: dict[Part, list[Batch]] = defaultdict(list)
        self._untrained: float | None = None

    def configure_callbacks(self) -> list[Callback]:
        """Return what looks on at every training: monitor, throughput, finite numbers."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Materialize) for callback in callbacks):
            callbacks.insert(0, Materialize())  # some of the others copy the module
        return [Monitor(), Throughput(), RequireFinite()]

    @property
    def _data(self) -> ImageData | None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data if isinstance(data, ImageData) else None

    @property
    def _truth(self) -> Tensor | None:
        return None if self._data is None else self._data.true_concentration

    def materialize(self, stage: str) -> None:
        """Let lazy layers take their sizes from one image, in the precision of the training."""
        images, self._batch_size = self._first_images(stage)
        if self.trainer.precision == "64-true":  # else Lightning rounds what a checkpoint has
            self.double()
            if images is not None and images.is_floating_point():
                images = images.double()
        if images is not None:
            # By a seed of their own, so that weights begin alike on one device and on several.
            with seeded(derived_seed(torch.initial_seed())):
                self.program.materialize(images)

    def setup(self, stage: str) -> None:
        """Prepare the encoder."""
        if not self._batch_size or any(map(is_lazy, self.program.parameters())):
            self.materialize(stage)  # where no callback has done it
        if self.freeze_encoder:
            self.program.freeze_encoder()
        if self._truth is not None and self._untrained is None:
            self._untrained = self._rank_correlation(self.trainer.datamodule, self._truth)  # type: ignore[attr-defined]
        if self.channels_last:
            self.program.encoder.to(memory_format=torch.channels_last)
        if self.compile_encoder:
            self.program.encoder.compile()

    def _first_images(self, stage: str) -> tuple[Tensor | None, int]:
        """Return images to be trained on, and the number in a batch."""
        if self._data is not None:
            return self._data.example, self._data.batch_size
        if stage != "fit":
            return None, 0
        self.trainer.fit_loop.setup_data()
        with seeded(0):  # the loader may draw from the source that the training draws from
            first = as_batch(next(iter(self.trainer.train_dataloader)))  # type: ignore[arg-type]
        return first.views[0][:1].cpu(), first.size

    def configure_optimizers(self) -> Any:
        """Return the optimizer, its learning rate rising and then falling to zero.

        Without a last step, as with ``max_epochs=-1``, the learning rate does not fall.
        """
        check_count("accumulate_grad_batches", self.trainer.accumulate_grad_batches)
        try:
            optimizer = self.optimizer(parameter_groups(self.program, self.decay_all))
        except ValueError as error:  # a rate, or a decay, below zero
            raise ValueError(f"optimizer takes no such argument: {error}.") from error
        batch = self._batch_size * self.trainer.world_size
        if self.reference_batch_size is not None:
            for group in optimizer.param_groups:
                group["lr"] *= batch / self.reference_batch_size
        self.trainer.fit_loop.setup_data()
        per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        steps = self.trainer.estimated_stepping_batches
        if self.warmup_epochs is None:
            warmup = min(10 * per_epoch, steps / 10) if batch > 256 else 0
        else:
            warmup = self.warmup_epochs * per_epoch if self.warmup_epochs else 0  # not 0 x infinity
        if warmup == math.inf:  # nobody knows when the training ends, or even an epoch
            if self.warmup_epochs is not None:
                raise ValueError(
                    f"warmup_epochs must be 0 with a loader of unknown length, got "
                    f"{self.warmup_epochs}."
                )
            warmup = 0
        # A training that is taken up may have other steps: the shape follows from them.
        factor = WarmupCosine(steps, round(warmup))
        # A bound method, which LambdaLR does not save.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor.__call__)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @property
    def _pace(self) -> dict[str, int]:
        """What the place in the schedule, and the learning rate, are counted in."""
        trainer = self.trainer
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return {"steps_per_epoch": steps, "batch": self._batch_size * trainer.world_size}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the steps of this training are, and gradients that wait for the next one."""
        if math.isfinite(self.trainer.num_training_batches):
            checkpoint["pace"] = self._pace
        if self._accumulating:
            gradients = {name: weight.grad for name, weight in self.named_parameters()}
            checkpoint["gradients"] = {n: g for n, g in gradients.items() if g is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read what was added."""
        self._earlier_pace = checkpoint.get("pace")
        self._gradients = checkpoint.get("gradients", {})

    def on_after_backward(self) -> None:
        """Note that there are gradients."""
        self._accumulating = True

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Note that they are taken."""
        self._accumulating = False

    def on_train_start(self) -> None:
        """Go on where the checkpoint was written, at the same epoch of the schedule."""
        for name, weight in self.named_parameters():
            if name in self._gradients:
                weight.grad = self._gradients[name].to(weight)
        self._gradients = {}
        earlier, self._earlier_pace = self._earlier_pace, None
        if earlier is None or earlier == self._pace:
            return
        scheduler: Any = self.lr_schedulers()
        epochs = scheduler.last_epoch / earlier["steps_per_epoch"]
        scheduler.last_epoch = round(epochs * self._pace["steps_per_epoch"])
        if self.reference_batch_size is not None:
            share = self._pace["batch"] / earlier["batch"]
            scheduler.base_lrs = [rate * share for rate in scheduler.base_lrs]
        groups = zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        )
        for group, base, factor in groups:
            group["lr"] = base * factor(scheduler.last_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return the loss of a batch with each of its terms, and log them."""
        batch = as_batch(batch)
        if not batch.size:
            if self.trainer.world_size == 1:
                return None
            # No rank has images here, but Lightning lets none of several leave a step out.
            return {"loss": torch.stack([0 * w.sum() for w in self.program.parameters()]).sum()}
        if self.annealing is not None:
            self.elbo.kl_weight = self.annealing(self.global_step)
        # Pyro's checks of every site would cost time: the finite loss is checked instead.
        with pyro.validation_enabled(False), self._draws_of_its_own(batch_idx):
            loss_module = self.elbo(self.program.model, self.program.guide)
            rows = (batch.rows,) if self.program.takes_rows else ()
            terms = loss_module.terms(batch.views, batch.labels, *rows)
        loss = torch.stack(list(terms.values())).sum()
        terms = {name: term.detach() for name, term in terms.items()}
        options = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": batch.size,
            "sync_dist": self.trainer.world_size > 1,
        }
        self.log_dict({"loss": loss.detach()} | terms, prog_bar=True, **options)
        self.log_dict(self.program.monitored, **options)
        return {"loss": loss} | terms

    def _draws_of_its_own(self, batch_idx: int) -> AbstractContextManager[None]:
        """Let each rank draw samples of its own, as our data modules do for any loader of theirs.

        Ranks begin with one seed, and two images with one noise would look alike.
        """
        if self._data is not None or self.trainer.world_size == 1:
            return nullcontext()
        place = self.global_step, batch_idx, self.global_rank
        return seeded(derived_seed(torch.initial_seed(), *place))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the features of a batch until ``embedded`` is asked for."""
        batch = as_batch(batch, dataloader_idx)
        if batch.size:
            self._collected[batch.part].append(encode(self.program, batch))

    test_step = validation_step

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> Embeddings | None:
        """Return the embeddings of a batch."""
        batch = as_batch(batch, dataloader_idx)
        return self._embed([encode(self.program, batch)]) if batch.size else None

    def _embed(self, batches: list[Batch]) -> Embeddings:
        with self.trainer.precision_plugin.forward_context():
            return embed(self.program, batches, self.device)

    def embedded(self) -> dict[Part, Embeddings]:
        """Return the embeddings of what was kept, by part, and forget it."""
        collected = gather(self._collected, self.trainer.world_size)
        self._collected.clear()
        return {part: self._embed(batches) for part, batches in collected.items()}

    def on_test_start(self) -> None:
        """Forget what an interrupted evaluation kept."""
        self._collected.clear()
        self.evaluation = None

    def on_test_epoch_end(self) -> None:
        """Evaluate what was embedded, in one process; ``evaluation`` holds the result."""
        embedded = self.embedded()
        if not self.trainer.is_global_zero:
            return
        bar = self.trainer.progress_bar_callback
        shown = getattr(bar, "is_enabled", False)
        self.evaluation = evaluate_parts(embedded, self._truth, shown)
        if self._untrained is not None:
            self.evaluation.metrics["truth/rank_correlation_untrained"] = self._untrained

    def _rank_correlation(self, data: ImageData, truth: Tensor) -> float:
        """Return how well the entropies rank the test images of known true concentration."""
        _, batches = data.test_dataloader()
        views = [data.on_after_batch_transfer(batch, 0).views[0] for batch in batches]
        entropy = copy.deepcopy(self.program).eval()(torch.cat(views)).entropy()
        return rank_correlation(entropy, -truth)
