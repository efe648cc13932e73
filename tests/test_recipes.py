"""The recipes of the papers' runs: each parses, says what its paper says, and runs for a batch."""

import io
import re
import shlex
import sys
from contextlib import redirect_stdout
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from probcl.cli import main
from probcl.data import DATASETS, ImageArrays, ImageFiles
from probcl.lightning_cli import ProbclCLI

FOLDER = Path(__file__).parents[1] / "experiments/recipes"
README = (FOLDER / "README.md").read_text()
RECIPES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml"))
OF_LIGHTLY = ("lightly.", "programs.SwAV", "programs.VICReg", "programs.BarlowTwins")

# Recipes that vary one number start from the row whose number it is.
SWEEPS = {name: f"varcon/table3-{name.split('-')[-1][:-5]}-resnet50-autoaugment.yaml"
          for name in RECIPES if name.startswith("varcon/figure")}  # fmt: skip
SWEEPS |= {f"vcl/ablation-beta-{program}.yaml": f"vcl/cifar10-{program}.yaml"
           for program in ("vsimclr", "vsupcon")}  # fmt: skip

# What the papers say: section 4 and appendix B.1 of VarCon, the protocol of VCL.
SGD = {
    "model.optimizer.lr": 0.05,
    "model.optimizer.momentum": 0.9,
    "model.optimizer.weight_decay": 1e-4,
    "model.reference_batch_size": 256,
    "model.warmup_epochs": None,  # probcl's own rule is the paper's
    "trainer.precision": "16-mixed",
}
CIFAR = {
    "trainer.max_epochs": 200,
    "data.batch_size": 512,
    "model.optimizer": "SGD",
    "model.program.encoder.depth": 50,
    "model.program.encoder.stem": "cifar",
}
IMAGENET = {
    "trainer.max_epochs": 350,
    "data.name": "ImageNet",
    "data.batch_size": 4096,
    "model.optimizer": "LARS",
}
PAPERS = [
    ("*", {"trainer.devices": 1, "trainer.accelerator": "auto"}),
    ("*", {"data": "Named", "data.root": "data"}),
    ("varcon/table1-*", SGD),
    ("varcon/table3-*", SGD),
    ("varcon/figure*", SGD),
    ("varcon/table1-cifar10-*", CIFAR | {"data.name": "CIFAR10"}),
    ("varcon/table1-cifar100-*", CIFAR | {"data.name": "CIFAR100"}),
    (
        "varcon/table1-imagenet100-*",
        {
            "trainer.max_epochs": 200,
            "data.name": "ImageNet100",
            "data.batch_size": 1024,
            "model.optimizer": "SGD",
        },
    ),
    ("varcon/table1-imagenet-*", IMAGENET),
    ("varcon/table3-*", IMAGENET),
    ("varcon/figure*", IMAGENET),
    ("varcon/table1-imagenet*", {"model.program.encoder.depth": 50}),
    ("varcon/figure*", {"model.program.encoder.depth": 50, "data.augmentation": "AutoAugment"}),
    ("varcon/*-resnet50-*", {"model.program.encoder.depth": 50}),
    ("varcon/*-resnet101-*", {"model.program.encoder.depth": 101}),
    ("varcon/*-resnet200-*", {"model.program.encoder.depth": 200}),
    (
        "varcon/*-vitbase-*",
        {"model.program.encoder": "VisionTransformer", "model.program.encoder.size": "base"},
    ),
    ("varcon/*-simaugment.yaml", {"data.augmentation": "SimAugment"}),
    ("varcon/*-autoaugment.yaml", {"data.augmentation": "AutoAugment"}),
    ("varcon/*-stackedrandaugment.yaml", {"data.augmentation": "StackedRandAugment"}),
    ("varcon/*-resnet*", {"model.program.encoder.stem": "imagenet", "data.augmentation.size": 224}),
    ("varcon/table4-cifar10.yaml", {"data.name": "CIFAR10", "data.augmentation.size": 224}),
    ("varcon/table4-cifar100.yaml", {"data.name": "CIFAR100", "data.augmentation.size": 224}),
    (
        "vcl/*",
        {
            "trainer.max_epochs": 500,
            "data.batch_size": 512,
            "data.augmentation": "SimAugment",
            "data.augmentation.size": 32,
            "model.optimizer": "AdamW",
            "model.program.encoder.depth": 18,
            "model.program.encoder.stem": "cifar",
            "model.program.temperature": 0.07,
        },
    ),
    (
        "vcl/*-v*",
        {
            "model.kl": "gaussian_bound",
            "model.program.beta": 1.0,
            "model.program.num_samples": 1,
            "model.program.posterior.initial_resultant_length": None,
            "model.program.temperature_correction": False,
        },
    ),
    *(
        (
            f"varcon/table1-imagenet*-{name}.yaml",
            {"model.program.projection.dim": 8192, "model.program.projection.hidden": 8192},
        )
        for name in ("vicreg", "barlowtwins")
    ),
    ("vcl/cifar10-*", {"data.name": "CIFAR10"}),
    ("vcl/cifar100-*", {"data.name": "CIFAR100"}),
    ("vcl/stl10-*", {"data.name": "STL10", "data.options": None}),
    ("vcl/tinyimagenet-*", {"data.name": "TinyImageNet"}),
    ("vcl/caltech256-*", {"data.name": "Caltech256"}),
]

# The programs by the name of their row, with the numbers of their own papers.
PROGRAMS = {
    "simclr": ("SimCLR", {}),
    "vsimclr": ("VSimCLR", {}),
    "supcon": ("SupCon", {}),
    "vsupcon": ("VSupCon", {}),
    "varcon": ("VarCon", {"temperature": 0.1, "epsilon": 0.02, "learn_epsilon": False}),
    "crossentropy": ("CrossEntropy", {}),
    "mocov2": ("MoCo", {"temperature": 0.2}),
    "byol": ("BYOL", {"momentum": 0.996}),
    "swav": ("SwAV", {"temperature": 0.1, "sinkhorn_epsilon": 0.05, "sinkhorn_iterations": 3}),
    "vicreg": (
        "VICReg",
        {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0},
    ),
    "barlowtwins": ("BarlowTwins", {"redundancy_weight": 0.005}),
}
CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "ImageNet100": 100, "ImageNet": 1000}


def text_of(recipe):
    return (FOLDER / recipe).read_text()


def skip_without_lightly(recipe):
    if find_spec("lightly") is None and any(name in text_of(recipe) for name in OF_LIGHTLY):
        pytest.skip("needs lightly: pip install 'probcl[baselines]'")


@cache
def parsed(*arguments):
    """Return the configuration that the command would run with."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments, "--print_config"])
    assert not stopped.value.code
    return yaml.safe_load(printed.getvalue())


@cache
def parser():
    """Return the parser of the command, which takes longer to make than to use."""
    found = []

    def take(self, parser, args):
        found.append(parser)
        sys.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProbclCLI, "parse_arguments", take)
        with pytest.raises(SystemExit):
            main(["fit"])
    return found[0]


@cache
def of_recipe(recipe, *options):
    """Return the configuration that the command would run a recipe with."""
    skip_without_lightly(recipe)
    config = parser().parse_args(["fit", f"--config={FOLDER / recipe}", *options]).fit.as_dict()
    del config["config"]  # the paths of the recipe and of the command's own defaults
    return config


def value(config, name):
    """Return a value by the name of its option: of a class, its own name."""
    for part in name.split("."):
        config = config.get("init_args", config) if isinstance(config, dict) else config
        config = (config or {}).get(part)
    return config["class_path"].split(".")[-1] if isinstance(config, dict) else config


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_numbers_of_its_paper(recipe):
    config = of_recipe(recipe)
    expected = {name: number for pattern, numbers in PAPERS if fnmatch(recipe, pattern)
                for name, number in numbers.items()}  # fmt: skip
    if "table4" not in recipe:
        row = re.split(r"[-./]", recipe)[2 if "table3" in recipe else -2]
        expected["model.program"], numbers = PROGRAMS[row]
        expected |= {f"model.program.{name}": number for name, number in numbers.items()}
        if row == "crossentropy":
            expected["model.program.num_classes"] = CLASSES[expected["data.name"]]
        if row in ("simclr", "supcon", "varcon", "mocov2") and recipe.startswith("varcon"):
            expected["model.program.projection"] = "MLP"
            expected["model.program.projection.dim"] = 128
        if row == "supcon" and recipe.startswith("varcon"):
            expected["model.program.temperature"] = 0.1
    assert {name: value(config, name) for name in expected} == expected


@pytest.mark.parametrize("recipe", SWEEPS)
def test_a_recipe_that_varies_a_number_starts_from_its_row(recipe):
    config = of_recipe(recipe)
    assert config == of_recipe(SWEEPS[recipe])
    header = re.search(r"^#   --(\S+) (.+ \| .+)$", text_of(recipe), re.MULTILINE)
    name, values = header[1], header[2].split(" | ")
    assert value(config, name) in map(float, values)
    for end in (values[0], values[-1]):
        assert value(of_recipe(recipe, f"--{name}={end}"), name) == float(end)


def test_the_readme_names_every_recipe_once():
    assert sorted(re.findall(r"^\| `(\S+\.yaml)` \|", README, re.MULTILINE)) == RECIPES


def test_the_headers_and_the_readme_point_at_recipes_that_are_there():
    texts = [README, *map(text_of, RECIPES)]
    named = {name for text in texts for name in re.findall(r"experiments/recipes/(\S+)", text)}
    assert named <= set(RECIPES)


def test_the_commands_of_the_readme_parse(monkeypatch):
    skip_without_lightly(RECIPES[0])
    monkeypatch.chdir(FOLDER.parents[1])
    commands = re.findall(r"^ *probcl fit ((?:.*\\\n)*.*)$", README, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        parsed(*shlex.split(command.replace("\\\n", "")))


def in_memory(*shape):
    def read(root, download):
        pixels = np.random.default_rng(0).integers(0, 256, (2, 8, *shape), dtype=np.uint8)
        return tuple(ImageArrays(part, np.arange(8)) for part in pixels)

    return read


def in_files(width, height):
    def read(root, download):
        random, paths = np.random.default_rng(0), [Path(f"{number}.jpg") for number in range(8)]
        for path in paths:
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return ImageFiles(paths, range(8)), ImageFiles(paths, range(8))

    return read


STAND_INS = {
    "CIFAR10": in_memory(3, 32, 32),
    "CIFAR100": in_memory(3, 32, 32),
    "STL10": in_memory(3, 96, 96),
    "TinyImageNet": in_files(64, 64),
    "Caltech256": in_files(300, 200),
    "ImageNet": in_files(500, 375),
    "ImageNet100": in_files(500, 375),
}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Random images of the true sizes in place of every data set; each of another class."""
    monkeypatch.chdir(tmp_path)
    for name, read in STAND_INS.items():
        monkeypatch.setitem(DATASETS, name, DATASETS[name]._replace(read=read))


# What the recipes have for a GPU would make a CPU slow.
SMALL = [
    "--data.batch_size=2", "--data.num_workers=0", "--data.monitored=0", "--data.corrupted=0",
    "--model.channels_last=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip
NARROW = ["--model.program.projection.hidden=256", "--model.program.projection.dim=256"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in SWEEPS])
def test_a_recipe_runs_for_a_batch(recipe, stand_ins):
    skip_without_lightly(recipe)
    # Not evaluated: that takes batches of a fixed size, however few the images are.
    options = ["--trainer.fast_dev_run=true", "--evaluate=false"]
    if "hidden: 8192" in (FOLDER / recipe).read_text():
        options += NARROW
    main(["fit", f"--config={FOLDER / recipe}", *SMALL, *options])


@pytest.mark.slow
def test_a_checkpoint_is_tested_on_another_data_set(stand_ins):
    pytest.importorskip("lightly", reason="needs lightly: pip install 'probcl[baselines]'")
    recipe = FOLDER / "varcon/table3-varcon-resnet50-autoaugment.yaml"
    depth = "--model.program.encoder.depth=18"  # of 50 layers, it would take three times as long
    size = "--data.augmentation.size=64"  # of 224 pixels, ten times; those the tests above run with
    main(["fit", f"--config={recipe}", *SMALL, depth, size, "--trainer.max_epochs=1",
          "--run_dir=run", "--evaluate=false"])  # fmt: skip
    main([
        "test", "--config=run/config.yaml", f"--config={FOLDER / 'varcon/table4-cifar100.yaml'}",
        "--ckpt_path=run/checkpoints/last.ckpt", *SMALL, size, "--run_dir=transfer",
    ])  # fmt: skip
    assert "name: CIFAR100" in Path("transfer/config.yaml").read_text()
    assert Path("transfer/report.html").exists()
