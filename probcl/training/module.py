"""The LightningModule that trains any program by its evidence lower bound."""

import math
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

from probcl.data.corruptions import CORRUPTIONS, SEVERITIES, UNFAMILIAR
from probcl.evaluation import Embeddings, Evaluation, evaluate
from probcl.evaluation.uncertainty import posterior_scores
from probcl.infer import ContrastiveELBO
from probcl.infer.contrastive_elbo import Average
from probcl.infer.divergence import KL
from probcl.programs import Program
from probcl.programs.program import mean_direction
from probcl.training.data import Batch

__all__ = ["ContrastiveModule"]


class ContrastiveModule(LightningModule):
    """Train a program by ``ContrastiveELBO`` with one optimizer and a cosine learning rate.

    After ``Trainer.test``, ``evaluation`` holds what was measured; ``seconds`` holds how long
    training and evaluation took.

    Args:
        program: The model, guide and encoder.
        kl: How the ELBO estimates the KL of the posterior, as ``ContrastiveELBO`` takes it.
        num_particles: Number of posterior samples in a step.
        average: Whether they are averaged outside or inside the logarithm.
        annealing: Step to the weight of the KL, such as ``probcl.infer.LinearAnnealing``; None for
            1 throughout.
        optimizer: Parameters to an optimizer.
    """

    def __init__(
        self,
        program: Program,
        kl: KL = "auto",
        num_particles: int = 1,
        average: Average = "outside",
        annealing: Callable[[int], float] | None = None,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    ) -> None:
        super().__init__()
        self.program = program
        self.elbo = ContrastiveELBO(kl, num_particles, average, vectorize_particles=True)
        self.annealing = annealing
        self.optimizer = optimizer
        self.evaluation: Evaluation | None = None
        self.seconds: dict[str, float] = {}
        self._collected: dict[tuple[str, int], list[Embeddings]] = defaultdict(list)
        self._started = 0.0
        self._logged: tuple[str, ...] = ()

    def setup(self, stage: str) -> None:
        """Let lazy layers take their sizes from one image."""
        self.program.materialize(self.trainer.datamodule.example)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer, its learning rate falling to zero along half a cosine.

        Without a last step, as with ``max_epochs=-1``, the learning rate stays as it is.
        """
        optimizer = self.optimizer(self.program.parameters())
        steps = self.trainer.estimated_stepping_batches

        def half_cosine(step: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))

        # A resumed run may have more steps: the shape follows from them, and is not restored.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, half_cosine)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Start the clock of the training."""
        self._started = time.perf_counter()

    def on_fit_end(self) -> None:
        """Note the seconds that the training took."""
        self.seconds["time/fit_s"] = time.perf_counter() - self._started

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it with each of its terms."""
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
        self.log_dict(
            logged,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(batch.labels),
        )
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop before a checkpoint is written if the loss or a weight is not finite."""
        metrics = self.trainer.callback_metrics
        self._require_finite({name: metrics[name] for name in self._logged})
        for name, parameter in self.program.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(
                    f"the weights of {name} are not finite after epoch {self.current_epoch}: "
                    "lower the learning rate or raise the temperature."
                )

    def on_test_start(self) -> None:
        """Start the clock of the evaluation, and forget what an earlier one collected."""
        self._started = time.perf_counter()
        self._collected.clear()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embed a batch of the training set (loader 0), or of the test set and its changes."""
        if dataloader_idx == 0:
            self._collected["train", 0].append(self.describe(batch))
            return
        self._collected["test", 0].append(self.describe(batch))
        images = batch.views[0]
        for name, corrupt in CORRUPTIONS.items():
            for severity in SEVERITIES:
                changed = batch._replace(views=corrupt(images, severity)[None])
                self._collected[name, severity].append(self.describe(changed))
        for name, change in UNFAMILIAR.items():
            changed = batch._replace(views=change(images)[None])
            self._collected[f"unfamiliar {name}", 0].append(self.describe(changed))

    def on_test_epoch_end(self) -> None:
        """Evaluate what was collected; ``evaluation`` holds the result."""
        sets = {key: Embeddings.concatenate(parts) for key, parts in self._collected.items()}
        self.evaluation = evaluate(
            sets["train", 0],
            sets["test", 0],
            {name: {s: sets[name, s] for s in SEVERITIES} for name in CORRUPTIONS},
            {name: sets[f"unfamiliar {name}", 0] for name in UNFAMILIAR},
        )
        self._collected.clear()
        self.seconds["time/evaluate_s"] = time.perf_counter() - self._started

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Embeddings:
        """Return the embeddings of a batch."""
        return self.describe(batch)

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
            embedding=mean_direction(posterior),
            features=features,
            labels=batch.labels,
            index=batch.rows,
            parameters={
                name: getattr(posterior, name)
                for name in posterior.arg_constraints
                if hasattr(posterior, name) and not isinstance(posterior, Delta)
            },
            scores=posterior_scores(posterior),
        )
