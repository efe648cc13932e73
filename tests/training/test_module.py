"""What the module does in a training: rates, loaders of any kind, freezing, what looks on."""

import math

import numpy as np
import pyro
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)  # fmt: skip
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from probcl.data import load_digits
from probcl.infer import ContrastiveELBO
from probcl.nn import ConvNet, ProjectedNormalHead, ResNet, UniformPrior
from probcl.programs import Program, SimCLR, SupCon, VSimCLR
from probcl.training import ContrastiveModule, Named
from probcl.training.batch import as_batch
from probcl.training.callbacks import Materialize, checkpoint_callbacks
from probcl.training.history import History
from probcl.training.optimisation import WarmupCosine, parameter_groups

# Lightning's notices, and what it does with PyTorch's trees.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        ".*does not have many workers",
        "Total length of `list` across ranks is zero",
        ".*number of training batches",
        ".*LeafSpec:FutureWarning",
        ".*no `val_dataloader`",
        ".*have no `val_dataloaders`",
        "Found .* in eval mode",
        "SWA is currently only supported every epoch",
        "You are trying to `self.log\\(",
    )
]


class Steps(Callback):
    """Note the learning rate and the rows of every step."""

    def __init__(self):
        self.rates, self.rows = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(getattr(batch, "rows", None))


def fitted(module, data, epochs=2, **options):
    steps = Steps()
    trainer = Trainer(
        max_epochs=epochs, callbacks=[steps], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    given = {"datamodule": data} if isinstance(data, Named) else {"train_dataloaders": data}
    trainer.fit(module, **given)
    return trainer, steps


def digits(batch_size=128, **options):
    return Named("Digits", augmentation=nn.Identity(), batch_size=batch_size, **options)


def small_encoder():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def program():
    return VSimCLR(small_encoder(), ProjectedNormalHead(4), temperature=0.2)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class TestRates:
    """Learning rates of 1,437 images: 11 batches of 128, or 2 of 512, in an epoch."""

    def rates(self, epochs=2, batch_size=128, limits=None, **options):
        module = ContrastiveModule(program(), optimizer=sgd, **options)
        data = digits(batch_size, monitored=0)
        return np.array(fitted(module, data, epochs, **(limits or {}))[1].rates)

    def test_the_rate_falls_from_the_first_step(self):
        cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(22) / 22))
        np.testing.assert_allclose(self.rates(), cosine)

    def test_the_rate_is_scaled_with_the_batch(self):
        assert self.rates(epochs=1, reference_batch_size=256)[0] == pytest.approx(0.05)

    @pytest.mark.parametrize(("epochs", "steps"), [(20, 4), (4, 1)])
    def test_large_batches_warm_up_for_a_tenth_of_a_short_training(self, epochs, steps):
        rates = self.rates(epochs, batch_size=512)
        np.testing.assert_allclose(rates[:steps], 0.1 * np.arange(1, steps + 1) / steps)
        assert (np.diff(rates[steps:]) < 0).all()

    def test_the_warm_up_may_be_chosen(self):
        np.testing.assert_allclose(
            self.rates(warmup_epochs=1)[:11], 0.1 * np.arange(1, 12) / 11
        )  # fmt: skip

    @pytest.mark.parametrize("epochs", [-1, 150])
    def test_a_number_of_steps_may_be_given(self, epochs):
        rates = self.rates(epochs, batch_size=512, limits={"max_steps": 20})
        cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(18) / 18))
        np.testing.assert_allclose(rates, [0.05, 0.1, *cosine])

    def test_without_an_end_the_rate_stays(self):
        rates = self.rates(-1, limits={"max_time": {"seconds": 1}})
        assert len(rates) > 1
        np.testing.assert_allclose(rates, 0.1)

    def test_accumulated_batches_are_one_step(self):
        rates = self.rates(limits={"accumulate_grad_batches": 2})
        assert len(np.unique(rates.round(12))) == 12  # 6 steps in each of two epochs


class TestLoaders:
    """Anyone's loader, of views and labels or of views only, without a data module of ours."""

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls):
        images = load_digits()[0].images[:300]
        return torch.stack([images, images.roll(1, -1)])

    def loader(self, *tensors, batch_size=100, **options):
        def collate(items):
            first, second, *labels = (torch.stack(parts) for parts in zip(*items, strict=True))
            return ([first, second], *labels) if labels else [first, second]

        return DataLoader(TensorDataset(*tensors), batch_size, collate_fn=collate, **options)

    def by_hand(self, program, batches, epochs):
        program.materialize(batches[0][0][0])
        start = {name: value.clone() for name, value in program.state_dict().items()}
        loss = ContrastiveELBO()(program.model, program.guide)
        optimizer = torch.optim.SGD(program.parameters(), lr=0.1)
        steps = epochs * len(batches)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            loss(*batches[step % len(batches)]).backward()
            optimizer.step()
        return start

    @pytest.mark.parametrize("labelled", [False, True])
    def test_a_training_is_that_of_a_loop_by_hand(self, views, labelled):
        labels = load_digits()[0].labels[:300]
        data = (*views, labels) if labelled else tuple(views)
        kind = SupCon if labelled else SimCLR
        hand, ours = (kind(small_encoder(), temperature=0.2) for _ in range(2))
        batches = [(batch if labelled else (batch,)) for batch in self.loader(*data)]
        start = self.by_hand(hand, batches, epochs=2)
        ours.materialize(views[0])
        ours.load_state_dict(start)
        fitted(ContrastiveModule(ours, optimizer=sgd), self.loader(*data))
        for name, value in hand.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-7)

    def test_lazy_layers_and_the_rate_take_their_sizes_from_its_first_batch(self, views):
        module = ContrastiveModule(program(), optimizer=sgd, reference_batch_size=200)
        trainer, steps = fitted(module, self.loader(*views, shuffle=True), epochs=2)
        assert steps.rates[0] == pytest.approx(0.05)
        assert len(steps.rates) == 3 * 2
        assert "val/knn_top1" not in trainer.callback_metrics

    def test_a_loader_without_a_length_has_no_warm_up(self, views):
        class Endless(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield list(views)

        loader = DataLoader(Endless(), batch_size=None)
        options = {"epochs": -1, "max_time": {"seconds": 1}}
        _, steps = fitted(ContrastiveModule(program(), optimizer=sgd), loader, **options)
        np.testing.assert_allclose(steps.rates, 0.1)
        module = ContrastiveModule(program(), optimizer=sgd, warmup_epochs=3)
        with pytest.raises(ValueError, match="warmup_epochs must be 0 with a loader of unknown"):
            fitted(module, loader, **options)


def test_a_few_batches_may_be_overfitted():
    module = ContrastiveModule(program(), optimizer=sgd)
    data = digits(64, monitored=200, validation=0.2)
    trainer, steps = fitted(module, data, epochs=3, overfit_batches=2)
    first, second, *others = steps.rows
    assert len(others) == 4
    assert not torch.equal(first, second)
    for number, rows in enumerate(others):
        assert torch.equal(rows, (first, second)[number % 2])
    assert 0 < trainer.callback_metrics["val/knn_top1"] <= 1


def test_a_frozen_encoder_stays_and_so_do_its_statistics():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(4))
    head = ProjectedNormalHead(4)
    module = ContrastiveModule(VSimCLR(encoder, head), optimizer=sgd, freeze_encoder=True)
    states = []

    class Keep(Callback):
        def on_train_start(self, trainer, pl_module):
            states.append({k: v.clone() for k, v in pl_module.program.state_dict().items()})

    trainer = Trainer(
        max_epochs=1, callbacks=[Keep()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, datamodule=digits(monitored=0))
    after = module.program.state_dict()
    changed = {name for name, value in states[0].items() if not torch.equal(value, after[name])}
    length = {"posterior_head.length"}  # of the means, measured in the first step
    assert changed == length | {n for n, _ in head.named_parameters(prefix="posterior_head")}


def test_a_compiled_encoder_in_another_memory_format_trains_to_the_same_weights():
    weights = []
    for options in ({}, {"compile_encoder": True, "channels_last": True}):
        torch.manual_seed(0)
        encoder = ResNet(18, stem="cifar", channels=1)
        chosen = VSimCLR(encoder, ProjectedNormalHead(8), temperature=0.2)
        module = ContrastiveModule(chosen, optimizer=sgd, **options)
        torch.manual_seed(1)
        with torch.compiler.set_stance("force_eager"):  # no compiler is needed to test the wiring
            fitted(
                module, digits(8, monitored=0), epochs=1, limit_train_batches=2,
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


def test_lazy_layers_begin_alike_whatever_was_drawn_before():
    """Lightning draws, or seeds anew, where it starts several processes."""
    weights = []
    for draws in (0, 7):
        torch.manual_seed(3)
        module = ContrastiveModule(program(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        torch.rand(draws)
        fitted(module, digits(monitored=0), epochs=1, limit_train_batches=1)
        weights.append(module.program.posterior_head.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_checkpoint_is_loaded_without_a_trainer(tmp_path):
    module = ContrastiveModule(program())
    trainer, _ = fitted(module, digits(), epochs=1)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    again = program()
    again.materialize(torch.zeros(1, 1, 8, 8))
    loaded = ContrastiveModule.load_from_checkpoint(tmp_path / "mine.ckpt", program=again)
    for name, weight in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_training_is_monitored(validation):
    chosen = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(8), temperature=0.2)
    module = ContrastiveModule(chosen)
    data = digits(monitored=150, validation=validation)
    trainer, _ = fitted(module, data)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert 0.2 < found["val/knn_top1"] <= 1  # chance: 0.1
    assert 0.2 < found["val/probe_top1"] <= 1
    assert found["val/effective_rank"] >= 1
    assert 0 < found["val/mean_resultant_length"] < 1
    assert found["images_per_second"] > 0
    assert found["memory_gib"] > 0
    assert found["loss"] == pytest.approx(found["kl_z"] + found["contrastive"], rel=1e-5)
    assert module.seconds["time/fit_s"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs must be at least 0 and finite, got -1"),
        ({"reference_batch_size": 0}, "reference_batch_size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveModule(program(), **options)


class Own(Program):
    """A program of one's own with a KL, which has no ``beta``."""

    def __init__(self):
        super().__init__(ConvNet([4]), ProjectedNormalHead(8))

    def model(self, views, labels=None):
        with pyro.plate("items", views.shape[1]):
            pyro.sample("z", UniformPrior(8)())

    def guide(self, views, labels=None):
        with pyro.plate("items", views.shape[1]):
            pyro.sample("z", self(views[0]))


def test_a_program_of_ones_own_may_be_annealed():
    module = ContrastiveModule(Own(), annealing=lambda step: 0.25)
    fitted(module, plain(), epochs=1)
    assert module.elbo.kl_weight == 0.25


class Alone(ContrastiveModule):
    def configure_callbacks(self):
        return []


def test_lazy_layers_take_their_sizes_without_our_callbacks():
    module = Alone(VSimCLR(ConvNet([4]), ProjectedNormalHead(8)))
    fitted(module, plain(), epochs=1)
    assert all(p.isfinite().all() for p in module.parameters())


def test_integers_stay_what_they_are_in_float64():
    words = torch.randint(0, 50, (16, 2, 7))
    loader = DataLoader(list(words), batch_size=8, collate_fn=lambda items: torch.stack(items, 1))
    encoder = nn.Sequential(nn.Embedding(50, 4), nn.Flatten())
    module = ContrastiveModule(SimCLR(encoder))
    fitted(module, loader, epochs=1, precision="64-true")
    assert encoder[0].weight.dtype == torch.float64


def test_the_last_checkpoint_has_lightnings_own_key(tmp_path):
    history = History(tmp_path)
    last = checkpoint_callbacks(tmp_path, False, history)[1]
    assert last.state_key == ModelCheckpoint(tmp_path, "last").state_key


def test_annealing_without_a_kl_is_refused():
    for without in (SimCLR(ConvNet([4])), VSimCLR(ConvNet([4]), beta=0)):
        with pytest.raises(ValueError, match="annealing weighs the KL, and the program has none"):
            ContrastiveModule(without, annealing=lambda step: 1.0)


@pytest.mark.parametrize("step", [0, 10])
def test_a_loss_that_is_not_finite_stops_the_training(step):
    """At once in a step that is logged, else at the end of the epoch, of 11 steps."""
    module = ContrastiveModule(program(), annealing=lambda s: math.inf if s == step else 0.0)
    with pytest.raises(ValueError, match=r"the loss is not finite in epoch 0 \(loss inf, kl_z inf"):
        fitted(module, digits(monitored=0), log_every_n_steps=100)


def test_weights_that_are_not_finite_stop_the_training():
    module = ContrastiveModule(
        program(), optimizer=lambda p: torch.optim.SGD(p, lr=1e30, weight_decay=1e30)
    )
    with pytest.raises(ValueError, match=r"the weights of encoder.1.weight are not finite"):
        fitted(module, digits(1437, monitored=0))


class TestOptimisation:
    """The factor on the learning rate, and which parameters decay."""

    def test_the_factor_rises_along_a_line_and_falls_along_a_cosine(self):
        factor = WarmupCosine(steps=110, warmup=10)
        rising = [factor(step) for step in range(10)]
        assert rising == pytest.approx([(step + 1) / 10 for step in range(10)])
        for step in range(10, 111):
            assert factor(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / 100)))
        assert factor(500) == pytest.approx(0)

    def test_without_an_end_the_factor_stays(self):
        factor = WarmupCosine(steps=math.inf, warmup=2)
        assert [factor(step) for step in (0, 1, 2, 10**9)] == [0.5, 1, 1, 1]

    def test_biases_and_normalisations_may_be_left_out_of_weight_decay(self):
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
        )  # fmt: skip
        module.register_parameter("number", nn.Parameter(torch.tensor(1.0)))
        module[0].bias.requires_grad_(False)
        everything, number = parameter_groups(module, decay_all=True)
        assert (number["weight_decay"], number["params"]) == (0.0, [module.number])
        decayed, kept = parameter_groups(module, decay_all=False)
        assert {id(p) for p in decayed["params"]} == {id(module[0].weight), id(module[3].weight)}
        names = {n for n, p in module.named_parameters() if any(p is k for k in kept["params"])}
        assert names == {"number", "1.weight", "1.bias", "3.bias"}
        assert len(everything["params"]) == 5
        optimizer = torch.optim.AdamW(parameter_groups(module, decay_all=False), weight_decay=0.3)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]

    def test_the_groups_of_a_program_hold_each_parameter_once(self):
        chosen = program()
        chosen.materialize(torch.zeros(1, 1, 8, 8))
        groups = parameter_groups(chosen, decay_all=False)
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert len(found) == len(set(found))
        assert set(found) == {id(parameter) for parameter in chosen.parameters()}


def plain(count=16, dtype=torch.float32):
    images = torch.rand(count, 2, 1, 8, 8, dtype=dtype)
    return DataLoader(list(images), batch_size=8, collate_fn=lambda items: torch.stack(items, 1))


@pytest.mark.parametrize("callback", [EMAWeightAveraging, StochasticWeightAveraging])
def test_weights_of_lazy_layers_are_averaged_too(callback):
    averaging = callback(swa_lrs=0.01) if callback is StochasticWeightAveraging else callback()
    program = VSimCLR(ConvNet([4]), ProjectedNormalHead(8))
    trainer = Trainer(
        max_epochs=4, callbacks=[averaging], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(ContrastiveModule(program), plain())
    assert all(p.isfinite().all() for p in program.parameters())
    assert sum(isinstance(c, Materialize) for c in trainer.callbacks) == 1


def test_averaged_weights_are_in_the_last_checkpoint(tmp_path):
    module = ContrastiveModule(VSimCLR(ConvNet([4]), ProjectedNormalHead(8)))
    history = History(tmp_path)
    trainer = Trainer(
        max_epochs=4, logger=history, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", log_every_n_steps=1,
        callbacks=[*checkpoint_callbacks(tmp_path, False, history),
                   StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1)],
    )  # fmt: skip
    trainer.fit(module, plain())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    for name, value in module.state_dict().items():
        torch.testing.assert_close(saved[name], value)


def test_validation_alone_takes_lazy_layers():
    images = TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module = ContrastiveModule(VSimCLR(ConvNet([4]), ProjectedNormalHead(8)))
    (values, *_) = trainer.validate(module, [DataLoader(images, 20)] * 2, verbose=False)
    assert 0 <= values["val/knn_top1"] <= 1


def test_a_trainer_of_bare_bones_trains():
    module = ContrastiveModule(SimCLR(ConvNet([4])))
    trainer = Trainer(accelerator="cpu", max_epochs=1, barebones=True)
    trainer.fit(module, plain())
    assert trainer.global_step == 2


def test_images_in_float64_are_taken_where_all_is():
    module = ContrastiveModule(SimCLR(ConvNet([4])))
    fitted(module, plain(dtype=torch.float64), epochs=1, precision="64-true")
    assert {p.dtype for p in module.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("batch", "got"),
    [({"views": torch.rand(2, 4, 1, 8, 8)}, "dict"), ("text", "str"), ([1, 2], "int"),
     (DataLoader([0]), "DataLoader")],
)  # fmt: skip
def test_a_batch_of_another_kind_is_named(batch, got):
    with pytest.raises(ValueError, match=rf"a batch must be views, .* got {got}: give the loader"):
        as_batch(batch)
