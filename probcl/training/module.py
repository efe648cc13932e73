"""The LightningModule that trains any program by its evidence lower bound."""

import copy
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import pyro
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from pyro.distributions import Delta
from torch import Tensor

from probcl.data import CORRUPTIONS, OUT_OF_DISTRIBUTION, SEVERITIES
from probcl.evaluation import Embeddings, Evaluation, evaluate, monitor, rank_correlation
from probcl.infer import ContrastiveELBO
from probcl.infer.divergence import KL
from probcl.programs import Program
from probcl.randomness import seeded
from probcl.training.data import Batch, ImageData
from probcl.training.optimisation import WarmupCosine, parameter_groups
from probcl.training.order import derived_seed

__all__ = ["ContrastiveModule"]

# The corruptions are of about so many test images, evenly spaced: 85 changes of each are embedded.
CORRUPTED_IMAGES = 1000


class ContrastiveModule(LightningModule):
    """Train a program by ``ContrastiveELBO`` with one optimizer, warm-up and a cosine.

    Gradients may be accumulated over batches and clipped by the Trainer
    (``accumulate_grad_batches``, ``gradient_clip_val``). But contrastive batches do not accumulate:
    an anchor is compared with the embeddings of its own batch only, so four batches of 128 are not
    one of 512.

    After ``Trainer.test``, ``evaluation`` holds what was measured; ``seconds`` holds how long
    training and evaluation took.

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
            normalisations too.
        compile_encoder: Whether ``torch.compile`` compiles the encoder.
        channels_last: Whether the encoder's weights lie in memory with the channels last, which
            suits convolutions in low precision on a GPU.

    Raises:
        ValueError: If ``reference_batch_size`` or ``warmup_epochs`` is out of range.
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
    ) -> None:
        super().__init__()
        if reference_batch_size is not None and reference_batch_size < 1:
            raise ValueError(
                f"reference_batch_size must be at least 1, got {reference_batch_size}."
            )
        if warmup_epochs is not None and not 0 <= warmup_epochs < float("inf"):
            raise ValueError(f"warmup_epochs must be at least 0 and finite, got {warmup_epochs}.")
        self.program = program
        self.elbo = ContrastiveELBO(kl)
        self.annealing = annealing
        self.optimizer = optimizer
        self.reference_batch_size = reference_batch_size
        self.warmup_epochs = warmup_epochs
        self.decay_all = decay_all
        self.compile_encoder = compile_encoder
        self.channels_last = channels_last
        self.evaluation: Evaluation | None = None
        self.seconds: dict[str, float] = {}
        self._collected: dict[tuple[str, int], list[Embeddings]] = defaultdict(list)
        self._started = 0.0
        self._epoch_started = self._watching_since = 0.0
        self._images = 0
        self._logged: tuple[str, ...] = ()
        self._untrained: Program | None = None
        self._corrupted_every = 1

    def setup(self, stage: str) -> None:
        """Let lazy layers take their sizes from one image, and prepare the encoder."""
        # By a seed of their own, so that weights begin alike on one device and on several.
        with seeded(derived_seed(torch.initial_seed())):
            self.program.materialize(self._data.example)
        if self._data.truth is not None and self._untrained is None:
            self._untrained = copy.deepcopy(self.program).eval()
        if self.channels_last:
            self.program.encoder.to(memory_format=torch.channels_last)
        if self.compile_encoder:
            self.program.encoder.compile()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer, its learning rate rising and then falling to zero.

        Without a last step, as with ``max_epochs=-1``, the learning rate does not fall.
        """
        optimizer = self.optimizer(parameter_groups(self.program, self.decay_all))
        batch = self._data.batch_size * self.trainer.world_size
        if self.reference_batch_size is not None:
            for group in optimizer.param_groups:
                group["lr"] *= batch / self.reference_batch_size
        self.trainer.fit_loop.setup_data()
        per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        steps = self.trainer.estimated_stepping_batches
        if self.warmup_epochs is not None:
            warmup = self.warmup_epochs * per_epoch
        else:
            warmup = min(10 * per_epoch, steps / 10) if batch > 256 else 0
        # A resumed run may have more steps: the shape follows from them, and is not restored.
        factor = WarmupCosine(steps, round(warmup))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor.__call__)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @property
    def images_per_second(self) -> float:
        """Images that training has taken in a second of this epoch, each with all its views."""
        return self._images / (time.perf_counter() - self._epoch_started)

    @property
    def _data(self) -> ImageData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Start the clock of the training, and forget what an interrupted one collected."""
        self._started = time.perf_counter()
        self._collected.clear()

    def on_fit_end(self) -> None:
        """Note the seconds that the training took."""
        self.seconds["time/fit_s"] = time.perf_counter() - self._started

    def on_train_epoch_start(self) -> None:
        """Start to count images."""
        self._epoch_started, self._images = time.perf_counter(), 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch, and log it with each of its terms."""
        if not len(batch.rows):
            return None
        if self.annealing is not None:
            self.elbo.kl_weight = self.annealing(self.global_step)
        # Pyro's checks of every site would cost time: the finite loss is checked instead.
        with pyro.validation_enabled(False):
            loss_module = self.elbo(self.program.model, self.program.guide)
            terms = loss_module.terms(batch.views, batch.labels)
        loss = torch.stack(list(terms.values())).sum()
        logged = {"loss": loss.detach()} | {name: term.detach() for name, term in terms.items()}
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and batch_idx % every == 0:
            self._require_finite(logged)
        self._logged = tuple(logged)
        self._images += len(batch.rows)
        self._log_means(logged, len(batch.rows), prog_bar=True)
        self._log_means(self.program.monitored, len(batch.rows))
        return loss

    def _log_means(self, values: dict[str, Tensor], count: int, prog_bar: bool = False) -> None:
        several = self.trainer.world_size > 1
        self.log_dict(
            values, prog_bar, on_step=False, on_epoch=True, batch_size=count, sync_dist=several
        )

    def on_validation_epoch_start(self) -> None:
        """Stop if a weight is not finite, and keep the time of the validation out of the speed."""
        self._require_finite_weights()
        self._watching_since = time.perf_counter()

    def on_validation_end(self) -> None:
        """Go on to measure the speed of the training."""
        self._epoch_started += time.perf_counter() - self._watching_since

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embed a batch of the images to compare with (loader 0) or of those watched (loader 1)."""
        if not len(batch.rows):
            return
        self._collected["watched", dataloader_idx].append(self.describe(batch))

    def on_validation_epoch_end(self) -> None:
        """Log how good the embedding is so far."""
        sets = [Embeddings.concatenate(self._collected.pop(("watched", i))) for i in (0, 1)]
        watched = monitor(*sets)
        self.log_dict(
            {f"val/{name}": value for name, value in watched.items()},
            prog_bar=True,
            sync_dist=self.trainer.world_size > 1,
        )

    def on_train_epoch_end(self) -> None:
        """Log speed and memory; stop before a checkpoint is written if a weight is not finite."""
        self.log_dict({"images_per_second": self.images_per_second, "memory_gib": self._memory()})
        metrics = self.trainer.callback_metrics
        self._require_finite({name: metrics[name] for name in self._logged})
        self._require_finite_weights()

    def on_test_start(self) -> None:
        """Start the clock of the evaluation, and forget what an earlier one collected."""
        self._started = time.perf_counter()
        self._collected.clear()
        tested = len(self._data.sets[1])  # type: ignore[arg-type]
        self._corrupted_every = -(-tested // CORRUPTED_IMAGES)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embed a batch of the training set (loader 0), or of the test set and its changes.

        Loader 2 has the images of another data set.
        """
        if not len(batch.rows):
            return
        if dataloader_idx == 0:
            self._collect("train", 0, batch)
            return
        if dataloader_idx == 2:
            assert self._data.unfamiliar is not None
            self._collect(self._data.unfamiliar.set_name, -1, batch)
            return
        self._collect("test", 0, batch)
        images = batch.views[0]
        if images.dim() != 4:  # vectors, which nothing can corrupt as it does images
            return
        for name, change in OUT_OF_DISTRIBUTION.items():
            self._collect(name, -1, batch._replace(views=change.apply(images, batch.rows)[None]))
        assert batch.labels is not None
        chosen = (batch.rows % self._corrupted_every == 0).nonzero()[:, 0]
        if len(chosen):
            part = Batch(images[chosen][None], batch.labels[chosen], batch.rows[chosen])
            for name, corruption in CORRUPTIONS.items():
                for severity in SEVERITIES:
                    views = corruption.apply(part.views[0], severity, part.rows)[None]
                    self._collect(name, severity, part._replace(views=views))

    def _collect(self, name: str, severity: int, batch: Batch) -> None:
        self._collected[name, severity].append(self.describe(batch))

    def on_test_epoch_end(self) -> None:
        """Evaluate what was collected; ``evaluation`` holds the result."""
        if ("test", 0) not in self._collected:
            raise ValueError("not one of the images to evaluate on can be read.")
        sets = {key: Embeddings.concatenate(parts) for key, parts in self._collected.items()}
        self._collected.clear()
        train, test = sets.pop(("train", 0)), sets.pop(("test", 0))
        corrupted: dict[str, dict[int, Embeddings]] = defaultdict(dict)
        for (name, severity), part in sets.items():
            if severity > 0:
                corrupted[name][severity] = part
        truth = self._data.truth
        self.evaluation = evaluate(
            train,
            None,
            test,
            None,
            out_of_distribution={name: part for (name, s), part in sets.items() if s < 0},
            corrupted=corrupted,
            true_concentration=None if truth is None else truth[test.rows],
        )
        if truth is not None:
            self._compare_with_untrained(self.evaluation, truth)
        self.seconds["time/evaluate_s"] = time.perf_counter() - self._started

    def _compare_with_untrained(self, evaluation: Evaluation, truth: Tensor) -> None:
        """Add how the entropies rank items, before and after the training."""
        answers = evaluation.answers.get("entropy")
        if answers is None or self._untrained is None:
            return
        loader = self._data.test_dataloader()[1]
        views = [self._data.on_after_batch_transfer(batch, 0).views[0] for batch in loader]
        before = self._untrained(torch.cat(views)).entropy()
        evaluation.metrics["truth/rank_correlation"] = answers["truth"].value
        evaluation.metrics["truth/rank_correlation_untrained"] = rank_correlation(before, -truth)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Embeddings | None:
        """Return the embeddings of a batch."""
        return self.describe(batch) if len(batch.rows) else None

    def _require_finite_weights(self) -> None:
        for name, parameter in self.program.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(
                    f"the weights of {name} are not finite in epoch {self.current_epoch}: lower "
                    "the learning rate or raise the temperature."
                )

    def _require_finite(self, logged: dict[str, Tensor]) -> None:
        if not logged["loss"].isfinite():
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in logged.items())
            raise ValueError(
                f"the loss is not finite in epoch {self.current_epoch} ({values}): lower the "
                "learning rate or raise the temperature."
            )

    def describe(self, batch: Batch) -> Embeddings:
        """Return the embeddings of the first view of a batch, and what the posterior says."""
        features = self.program.encoder(batch.views[0])
        posterior = self.program.posterior_from_features(features)
        return Embeddings(
            self.program.project(features),
            batch.labels,
            features,
            None if isinstance(posterior, Delta) else posterior,
            batch.rows,
        )

    def _memory(self) -> float:
        """Return the peak of the device's memory, or of the process's, in GiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
