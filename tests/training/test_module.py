"""What the module adds to a training: learning rates, compilation, memory format."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from probcl.nn import ConvNet, ProjectedNormalHead, ResNet
from probcl.programs import VSimCLR
from probcl.training import ContrastiveModule, Named

# Lightning's notices, and what it does with PyTorch's trees.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        ".*does not have many workers",
        "Total length of `list` across ranks is zero",
        ".*number of training batches",
        ".*LeafSpec:FutureWarning",
    )
]


class Rates(Callback):
    """Note the learning rate of every step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(module, path, epochs=2, batch_size=128, **options):
    rates = Rates()
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[rates],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=path,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(module, datamodule=Named("Digits", batch_size=batch_size, monitored=0))
    return np.array(rates.rates)


def program(**encoder):
    return VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(8), temperature=0.2)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class TestRates:
    """Learning rates of 1,437 images: 11 batches of 128, or 2 of 512, in an epoch."""

    def test_the_rate_falls_from_the_first_step(self, tmp_path):
        rates = fitted(ContrastiveModule(program(), optimizer=sgd), tmp_path)
        cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(22) / 22))
        np.testing.assert_allclose(rates, cosine)

    def test_the_rate_is_scaled_with_the_batch(self, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd, reference_batch_size=256)
        assert fitted(module, tmp_path)[0] == pytest.approx(0.05)

    @pytest.mark.parametrize(("epochs", "steps"), [(20, 4), (4, 1)])
    def test_large_batches_warm_up_for_a_tenth_of_a_short_training(self, epochs, steps, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd)
        rates = fitted(module, tmp_path, epochs, batch_size=512)
        np.testing.assert_allclose(rates[:steps], 0.1 * np.arange(1, steps + 1) / steps)
        assert (np.diff(rates[steps:]) < 0).all()

    def test_the_warm_up_may_be_chosen(self, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd, warmup_epochs=1)
        rates = fitted(module, tmp_path)
        np.testing.assert_allclose(rates[:11], 0.1 * np.arange(1, 12) / 11)

    @pytest.mark.parametrize("epochs", [-1, 150])
    def test_a_number_of_steps_may_be_given(self, epochs, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd)
        rates = fitted(module, tmp_path, epochs, batch_size=512, max_steps=20)
        cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(18) / 18))
        np.testing.assert_allclose(rates, [0.05, 0.1, *cosine])

    def test_without_an_end_the_rate_stays(self, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd)
        rates = fitted(module, tmp_path, -1, max_time={"seconds": 1})
        assert len(rates) > 1
        np.testing.assert_allclose(rates, 0.1)

    def test_accumulated_batches_are_one_step(self, tmp_path):
        module = ContrastiveModule(program(), optimizer=sgd)
        rates = fitted(module, tmp_path, accumulate_grad_batches=2)
        assert len(np.unique(rates.round(12))) == 12  # 6 steps in each of two epochs


def test_a_compiled_encoder_in_another_memory_format_trains_to_the_same_weights(tmp_path):
    weights = []
    for options in ({}, {"compile_encoder": True, "channels_last": True}):
        torch.manual_seed(0)
        encoder = ResNet(18, stem="cifar", channels=1)
        chosen = VSimCLR(encoder, ProjectedNormalHead(8), temperature=0.2)
        module = ContrastiveModule(chosen, optimizer=sgd, **options)
        torch.manual_seed(1)
        with torch.compiler.set_stance("force_eager"):  # no compiler is needed to test the wiring
            fitted(
                module, tmp_path, epochs=1, batch_size=256, limit_train_batches=2,
                precision="64-true",
            )  # fmt: skip
        assert bool(encoder._compiled_call_impl) == bool(options)
        weights.append(module.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert weights[1]["program.encoder.conv1.weight"].is_contiguous(
        memory_format=torch.channels_last
    )
    for name, weight in weights[0].items():
        if weight.is_floating_point():
            torch.testing.assert_close(weights[1][name], weight, rtol=1e-7, atol=1e-9)


def test_lazy_layers_begin_alike_whatever_was_drawn_before(tmp_path):
    """Lightning draws, or seeds anew, where it starts several processes."""
    weights = []
    for draws in (0, 7):
        torch.manual_seed(3)
        module = ContrastiveModule(program(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        torch.rand(draws)
        fitted(module, tmp_path, epochs=1, limit_train_batches=1)
        weights.append(module.program.posterior_head.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
