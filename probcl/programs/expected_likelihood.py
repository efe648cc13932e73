"""Contrast whole posteriors in closed form: the programs that recover the concentration."""

from torch import Tensor, nn
from torch.distributions import Distribution

from probcl.distributions import ProjectedNormal, VonMisesFisher, as_posterior
from probcl.distributions.covariance import Isotropic
from probcl.nn import VonMisesFisherHead
from probcl.objectives import expected_likelihood
from probcl.objectives.expected_likelihood import Kernel
from probcl.programs.program import Anchors, Program, Views, require_labels

__all__ = ["ExpectedLikelihood", "SupExpectedLikelihood"]


class ExpectedLikelihood(Program):
    r"""InfoNCE over the expected likelihood of one view's posterior under the other's.

        loss = mean_i log(1 + sum_j exp(s_ij - s_ip)),  s = log int q_i q_j

    in closed form: ``probcl.objectives.expected_likelihood``. An isotropic projected normal is
    taken as a normal with variance ``1 / concentration`` in its tangent plane. Where images are
    drawn as the loss assumes, its minimum has the concentration of the true posterior.

    Args:
        encoder: Images to features.
        posterior: Features to a ``VonMisesFisher`` or an isotropic ``ProjectedNormal``; by default
            ``VonMisesFisherHead(initial_resultant_length=0.62)``, a concentration of about ``dim``:
            nothing is sampled, so a wide start makes no noise, and a narrow one is a low
            temperature.
        positive_concentration: Concentration of a von Mises-Fisher kernel between the directions
            of two views; None if both views show one direction.
    """

    _supervised = False

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        positive_concentration: float | None = None,
    ) -> None:
        if posterior is None:
            posterior = VonMisesFisherHead(initial_resultant_length=0.62)
        super().__init__(encoder, posterior)
        self.positive_concentration = positive_concentration

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Weigh the posteriors of all views, the directions integrated out."""
        views = self._start(views)
        q = self._view_posteriors(views)
        concentration, kernel = _tangent_concentration(q)
        losses = expected_likelihood(
            as_posterior(q).mean_direction,
            concentration,
            require_labels(self, labels, views.shape[1]) if self._supervised else None,
            kernel=kernel,
            positive_concentration=self.positive_concentration,
            reduction="none",
        )
        Anchors(*views.shape[:2]).observe(losses)


class SupExpectedLikelihood(ExpectedLikelihood):
    r"""``ExpectedLikelihood`` with labels: the class's posteriors against those of other classes.

    Args:
        encoder: Images to features.
        posterior: As for ``ExpectedLikelihood``.
        positive_concentration: As for ``ExpectedLikelihood``.
    """

    _supervised = True


def _tangent_concentration(q: Distribution) -> tuple[Tensor, Kernel]:
    """Return a posterior's concentration about its mean direction, and its kernel."""
    if isinstance(q, VonMisesFisher):
        return q.concentration, "von_mises_fisher"
    if isinstance(q, ProjectedNormal) and isinstance(q.normal_covariance, Isotropic):
        return q.loc.square().sum(-1) / q.scale.squeeze(-1).square(), "normal"
    raise ValueError(
        "ExpectedLikelihood has a closed form for VonMisesFisher and isotropic ProjectedNormal "
        f"posteriors, got {type(q).__name__}: use VonMisesFisherHead() or "
        "ProjectedNormalHead(covariance='isotropic')."
    )
