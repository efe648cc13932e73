"""What an evaluation embeds is a function of rows: not of batches, their order or the devices."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from probcl.data import CORRUPTIONS, OUT_OF_DISTRIBUTION, SEVERITIES, ImageArrays, load_digits
from probcl.evaluation import Embeddings, evaluate
from probcl.nn import ConvNet, ProjectedNormalHead
from probcl.programs import SimCLR, VSimCLR
from probcl.training import ContrastiveModule, ImageData, Named
from probcl.training.batch import TEST, Part
from probcl.training.evaluation import EVALUATION_BATCH, evaluate_parts
from probcl.training.sampler import Batches

# Lightning's notices, and what it does with PyTorch's trees.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Total length of"),
]


class FewDigits(ImageData):
    """Some of the digits, as they are."""

    def default_augmentation(self):
        return torch.nn.Identity()

    def load(self):
        train, test = load_digits()
        return ImageArrays(train.images[:200], train.labels[:200]), ImageArrays(
            test.images[:100], test.labels[:100]
        )


class InAnyOrder:
    """The same images in batches of 37, in any order."""

    def test_dataloader(self):
        return [self.shuffled(loader) for loader in super().test_dataloader()]

    def shuffled(self, loader):
        blocks = {}
        for block, part in loader:
            blocks.setdefault(part, []).append(block)
        batches = []
        for part, found in blocks.items():
            images, labels, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
            for chosen in torch.randperm(len(rows)).split(37):
                batches.append(((images[chosen], labels[chosen], rows[chosen]), part))
        order = torch.randperm(len(batches)).tolist()
        return Batches(len(batches), lambda: iter([batches[i] for i in order]))


class Shuffled(InAnyOrder, FewDigits):
    pass


class ShuffledDigits(InAnyOrder, Named):
    def __init__(self):
        super().__init__("Digits")


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(8))


def trainer(**options):
    return Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", **options,
    )  # fmt: skip


def evaluated(program, data, **options):
    module = ContrastiveModule(program)
    trainer(**options).test(module, datamodule=data, verbose=False)
    return module.evaluation


def embedded(program, data=None, dataloaders=None, **options):
    """Return what there is to evaluate."""
    module, found = ContrastiveModule(program), []
    module.on_test_epoch_end = lambda: found.append(module.embedded())
    trainer(**options).test(module, dataloaders, datamodule=data, verbose=False)
    return found[0]


def assert_equal(arrays, others):
    assert arrays.keys() == others.keys()
    for part, one in arrays.items():
        two = others[part]
        for name in ("embedding", "features", "labels", "rows"):
            assert torch.equal(getattr(one, name), getattr(two, name))
        for name in ("loc", "scale"):
            (values,), (other,) = ([getattr(q, name) for q in x.posterior] for x in (one, two))
            assert torch.equal(values, other)


class TestParts:
    """What is embedded with a test set."""

    def parts(self, data, loader):
        found = {}
        data.setup("test")
        for raw in data.test_dataloader()[loader]:
            batch = data.on_after_batch_transfer(raw, 0)
            found.setdefault(batch.part, []).append(batch.views[0])
        return {part: torch.cat(views) for part, views in found.items()}

    def test_a_test_set_comes_with_its_changes(self):
        data = FewDigits(batch_size=10, corrupted=30)
        images = data.sets[1].images
        changed = self.parts(data, 1)
        assert torch.equal(changed.pop(TEST), images)
        assert [part.name for part in changed] == list(OUT_OF_DISTRIBUTION)
        for part, found in changed.items():
            expected = OUT_OF_DISTRIBUTION[part.name].apply(images, torch.arange(100))
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        corrupted = self.parts(data, 2)
        assert [part[1:] for part in corrupted] == [(n, s) for n in CORRUPTIONS for s in SEVERITIES]
        rows = torch.arange(30) * 100 // 30
        for name in ("gaussian_noise", "fog"):
            found = corrupted[Part("corrupted", name, 3)]
            expected = CORRUPTIONS[name].apply(images[rows], 3, rows)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("count", [1, 7, 181, 359, 360, 1000])
    def test_as_many_are_corrupted_as_are_asked_for(self, count):
        data = Named("Digits", corrupted=count)
        data.setup("test")
        batches = [data.on_after_batch_transfer(raw, 0) for raw in data.test_dataloader()[2]]
        rows = torch.cat([batch.rows for batch in batches]).unique()
        assert len(rows) == min(count, 360) and rows[0] == 0
        assert len(rows.diff().unique()) <= 2  # evenly spaced

    def test_none_are_corrupted_if_none_are_asked_for(self):
        data = FewDigits(batch_size=10, corrupted=0)
        assert len(data.test_dataloader()) == 2

    @pytest.mark.parametrize("limit", [1, 3, 0.5])
    def test_changes_are_left_out_where_batches_are_limited(self, limit):
        data = FewDigits(batch_size=10)
        data.trainer = SimpleNamespace(limit_test_batches=limit, world_size=1, global_rank=0)
        assert [len(loader) for loader in data.test_dataloader()] == [4, 2]

    def test_another_set_is_out_of_distribution(self):
        data = FewDigits(batch_size=10, corrupted=0, out_of_distribution=FewDigits())
        assert list(self.parts(data, 2)) == [Part("out_of_distribution", "fewdigits")]
        assert len(data.predict_dataloader()) == 2

    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_ranks_share_its_blocks(self, world_size):
        blocks = []
        for rank in range(world_size):
            data = FewDigits(batch_size=10)
            data.trainer = SimpleNamespace(
                limit_test_batches=1, world_size=world_size, global_rank=rank
            )
            blocks += [block[2].tolist() for block, _ in data.test_dataloader()[0]]
        whole = range(200)
        size = EVALUATION_BATCH
        assert sorted(blocks) == [list(whole[i : i + size]) for i in range(0, 200, size)]


def test_the_arrays_are_the_same_for_every_batch_size_and_order(program):
    """Bit for bit; and evaluation draws nothing anew."""
    data = [FewDigits(batch_size=size, corrupted=20) for size in (32, 100, 150)]
    arrays, *others = (embedded(program, d) for d in (*data, Shuffled(batch_size=32, corrupted=20)))
    for other in others:
        assert_equal(arrays, other)


def test_the_numbers_are_the_same_in_any_order(program):
    data = FewDigits(batch_size=32, corrupted=0), Shuffled(batch_size=100, corrupted=0)
    numbers, shuffled = (evaluated(program, images).metrics for images in data)
    assert len(numbers) > 300
    assert numbers == shuffled


@pytest.mark.slow
def test_the_numbers_of_all_digits_are_the_same_for_every_batch_size_and_order(program):
    """The arrays bit for bit, and so are the numbers, which follow from nothing else."""
    data = [Named("Digits", batch_size=size) for size in (32, 100, 256)]
    arrays, *others = (embedded(program, d) for d in (*data, ShuffledDigits()))
    for other in others:
        assert_equal(arrays, other)
    numbers, shuffled = (evaluate_parts(given, None, False) for given in (arrays, others[-1]))
    assert numbers.metrics == shuffled.metrics


def test_what_is_evaluated_is_what_the_program_says(program):
    """The module embeds; the rest is ``evaluate``, of the same arrays given by hand."""
    data = FewDigits(batch_size=50, corrupted=0)
    module = ContrastiveModule(program)
    trainer(limit_test_batches=10).test(module, datamodule=data, verbose=False)
    with torch.no_grad():
        sets = []
        for part in data.sets:
            features = program.eval().encoder(part.images)
            posterior = program.posterior_from_features(features)
            sets.append(Embeddings(program.project(features), part.labels, features, posterior))
    expected = evaluate(sets[0], None, sets[1], None).metrics
    assert module.evaluation.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert module.evaluation.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_points_have_no_posterior():
    torch.manual_seed(0)
    point = SimCLR(ConvNet((4, 8)))
    arrays = embedded(point, FewDigits(batch_size=50, corrupted=0))
    assert all(not part.posterior for part in arrays.values())
    lengths = torch.linalg.vector_norm(arrays[TEST].embedding, dim=-1)
    assert lengths.std() > 0  # before they are normalised


def test_an_evaluation_can_be_left_out(program):
    assert evaluated(program, FewDigits(batch_size=50), limit_test_batches=0) is None


def test_without_test_images_there_is_one_sentence(program):
    images = DataLoader(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4)))
    with pytest.raises(ValueError, match="there are no images to evaluate on, or not one"):
        trainer().test(ContrastiveModule(program), images, verbose=False)


def test_loaders_of_ones_own_are_evaluated_too(program):
    parts = FewDigits().sets
    loaders = [DataLoader(TensorDataset(part.images, part.labels), 50) for part in parts]
    own = embedded(program, dataloaders=loaders)
    assert_equal(own, embedded(program, FewDigits(batch_size=50), limit_test_batches=10))


def test_predictions_are_embeddings_by_row(program):
    parts = trainer().predict(ContrastiveModule(program), datamodule=FewDigits(batch_size=50))
    rows = [torch.cat([batch.rows for batch in part]) for part in parts]
    assert [part.tolist() for part in rows] == [list(range(200)), list(range(100))]
