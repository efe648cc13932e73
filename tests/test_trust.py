"""Strangers' files are data: what they may name, how large they may be, and what is whole."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from probcl.cli import main
from probcl.hub import Pretrained
from probcl.runs import read_metrics
from probcl.trust import DEEPEST, LARGEST_FILE, MOST_VALUES, check_trusted, read_config

ENCODER = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
PROGRAM = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": ENCODER}}
# Importing it leaves a file; so does making the class.
STRANGE = """
from pathlib import Path
from probcl.nn import ConvNet
Path("imported").touch()

class Encoder(ConvNet):
    pass

def run():
    Path("called").touch()
"""
NOT_CLASSES_OF_OURS = [
    "strange.Encoder", "strange.run", "os.system", "subprocess.Popen", "builtins.eval",
    "torch.load", "torch.hub.load", "torch.utils.data.DataLoader", "probcl.runs.shutil.rmtree",
    "probcl.cli.main", "probcl.lightning_cli.ProbclCLI", "torch.nn.modules.module.itertools.chain",
    "torchvision.datasets.CIFAR10", "lightning.pytorch.callbacks.Callback", "no_such_module.Class",
    "probcl.nn.encoder_by_name",
]  # fmt: skip


@pytest.fixture(autouse=True)
def strange(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("strange", None)


@pytest.fixture
def pretrained(tmp_path):
    Pretrained(PROGRAM, (1, 8, 8)).save_pretrained(tmp_path / "shared")
    return tmp_path / "shared"


@pytest.fixture
def run(trained, tmp_path):
    for name in ("checkpoints", "config.yaml"):
        copy = shutil.copytree if (trained / name).is_dir() else shutil.copy
        (tmp_path / "run").mkdir(exist_ok=True)
        copy(trained / name, tmp_path / "run" / name)
    return tmp_path / "run"


def with_encoder(config, encoder):
    config["program"]["init_args"]["encoder"] = encoder
    return config


def rewrite_pretrained(folder, encoder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(with_encoder(config, encoder)))


def rewrite_run(folder, encoder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    with_encoder(config["model"], encoder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("name", NOT_CLASSES_OF_OURS)
@pytest.mark.parametrize("how", ["class", "text", "callable"])
def test_a_strangers_configuration_names_known_classes_only(name, how, pretrained, tmp_path):
    encoder = {
        "class": {"class_path": name},
        "text": f"{{class_path: {name}}}",
        "callable": {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": name}},
    }[how]
    rewrite_pretrained(pretrained, encoder)
    refused = "more configuration in a text" if how == "text" else f"names {name}, which is no"
    if how == "callable" and name.startswith("no_such_module"):
        refused = "cannot be built"  # any text may have a dot
    with pytest.raises(ValueError, match=refused):
        Pretrained.from_pretrained(pretrained)
    assert "strange" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_nor_is_it_in_a_file_that_it_names(pretrained, tmp_path):
    (tmp_path / "more.yaml").write_text("class_path: strange.Encoder\n")
    rewrite_pretrained(pretrained, "more.yaml")
    with pytest.raises(ValueError, match="more configuration in a text, encoder"):
        Pretrained.from_pretrained(pretrained)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("command", ["test", "predict"])
@pytest.mark.parametrize("form", ["class", "text", "file"])
def test_nor_does_that_of_a_strangers_run(command, form, run, tmp_path):
    (tmp_path / "more.yaml").write_text("class_path: strange.Encoder\n")
    encoder = {
        "class": {"class_path": "strange.Encoder"},
        "text": "class_path: strange.Encoder",
        "file": "more.yaml",
    }[form]
    rewrite_run(run, encoder)
    with pytest.raises(SystemExit) as stopped:
        main([command, f"--ckpt_path={run / 'checkpoints/last.ckpt'}"])
    assert stopped.value.code not in (0, None)
    assert not (tmp_path / "imported").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "more.yaml", "strange.py", "runs"}


def test_who_trusts_a_stranger_says_so(pretrained, run, capsys, tmp_path):
    rewrite_pretrained(
        pretrained, {"class_path": "strange.Encoder", "init_args": {"widths": [4, 8]}}
    )
    assert Pretrained.from_pretrained(pretrained, trust=True).program.encoder is not None
    rewrite_run(run, {"class_path": "strange.Encoder", "init_args": {"widths": [32, 64, 128]}})
    main(["predict", f"--ckpt_path={run / 'checkpoints/last.ckpt'}", "--trust", "--run_dir=out"])
    assert f"configuration: {run / 'config.yaml'}" in capsys.readouterr().out.replace("\n", "")


def test_a_run_writes_only_where_it_is_told(run, tmp_path):
    """Folders, loggers, callbacks and downloads of a stranger's configuration are left out."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run_dir"] = config["trainer"]["default_root_dir"] = str(tmp_path / "elsewhere")
    config["trainer"]["callbacks"] = [{"class_path": "strange.run"}]
    config["data"]["init_args"]["download"] = True
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    main(["predict", f"--ckpt_path={run / 'checkpoints/last.ckpt'}", "--run_dir=out"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "strange.py"}
    written = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert written["data"]["init_args"]["download"] is False


@pytest.mark.parametrize(
    "name",
    ["probcl.nn.ConvNet", "probcl.nn.encoders.ConvNet", "torch.nn.Flatten", "torch.optim.AdamW"],
)
def test_known_classes_may_be_named(name):
    check_trusted({"class_path": name, "file": "weights.safetensors", "version": "1.2"}, "it")


@pytest.mark.parametrize("file", ["numbers.npz", "test.npy", "calendar.parquet"])
def test_a_file_may_be_called_as_a_module_is(file):
    check_trusted({"path": file}, "it")
    with pytest.raises(ValueError, match="trust"):
        check_trusted({"class_path": file}, "it")
    with pytest.raises(ValueError, match="trust"):
        check_trusted({"path": file.partition(".")[0] + ".Number"}, "it")


def nested(depth):
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a" * (LARGEST_FILE + 1), "is the limit"),
        (json.dumps(list(range(MOST_VALUES + 1))), "values are the limit"),
        (json.dumps(nested(DEEPEST + 1)), "deep"),
        ("[" * 20_000, "cannot be read"),
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_configuration_has_the_size_of_one(content, reason, suffix, tmp_path):
    path = tmp_path / f"config.{suffix}"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=reason):
        read_config(path)


def test_references_are_counted_as_what_they_stand_for(tmp_path):
    few = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
    (tmp_path / "config.yaml").write_text(f"a0: &a0 [1]\n{few}\n")
    with pytest.raises(ValueError, match="values are the limit"):
        read_config(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("a: &a [*a]")
    with pytest.raises(ValueError, match="deep"):
        read_config(tmp_path / "config.yaml")


def test_every_flipped_bit_that_changes_a_weight_is_noticed(pretrained):
    path = pretrained / "model.safetensors"
    content, weights = path.read_bytes(), load_file(path)
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(8 * len(content), (200,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded = Pretrained.from_pretrained(pretrained).state_dict()
        except (ValueError, RuntimeError):  # not as it was written; or of other names
            continue
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_weights_without_a_digest_are_loaded(pretrained):
    path = pretrained / "model.safetensors"
    save_file(load_file(path), path)
    Pretrained.from_pretrained(pretrained)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_named(name, pretrained):
    (pretrained / name).unlink()
    with pytest.raises(ValueError, match=f"holds no {name}"):
        Pretrained.from_pretrained(pretrained)


@pytest.mark.parametrize("content", ["[]", "{}", '{"program": 1, "image_shape": [1, 8, 8]}'])
def test_a_configuration_of_something_else_is_named(content, pretrained):
    (pretrained / "config.json").write_text(content)
    with pytest.raises(ValueError, match="configuration"):
        Pretrained.from_pretrained(pretrained)


def test_numbers_that_were_changed_are_noticed(trained, tmp_path):
    for name in ("metrics.json", "environment.json"):
        shutil.copy(trained / name, tmp_path / name)
    assert read_metrics(tmp_path) == json.loads((trained / "metrics.json").read_text())
    text = (tmp_path / "metrics.json").read_text()
    (tmp_path / "metrics.json").write_text(text.replace("0.9", "0.8", 1))
    with pytest.raises(ValueError, match=r"metrics\.json is not as it was written"):
        read_metrics(tmp_path)
    with pytest.raises(SystemExit, match="not as it was written"):
        main(["compare", str(tmp_path), "--output=compare.html"])
    assert not Path("compare.html").exists()
