"""What is shared of a run: weights without code, loaded bit for bit."""

import json

import pytest
import torch
from safetensors import safe_open

from probcl.cli import main
from probcl.data import load_digits
from probcl.hub import Pretrained
from probcl.nn import ConvNet
from probcl.programs import VSimCLR

QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
IMAGES = load_digits()[1].images


@pytest.fixture(scope="module", params=["VSimCLR", "VarCon", "SimCLR"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    main(["fit", *QUICK, f"--model.program={request.param}", f"--run_dir={folder}"])
    return folder


def test_a_run_shares_its_program_bit_for_bit(run):
    shared = Pretrained.from_pretrained(run / "pretrained")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = {name.removeprefix("program."): w for name, w in checkpoint.items()}
    assert shared.program.state_dict().keys() == weights.keys()
    for name, weight in shared.program.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert not shared.training
    assert torch.equal(shared(IMAGES).loc, shared.program(IMAGES).loc)


def test_saved_again_embeddings_and_posteriors_stay_bit_for_bit(run, tmp_path):
    shared = Pretrained.from_pretrained(run / "pretrained")
    shared.save_pretrained(tmp_path / "again")
    again = Pretrained.from_pretrained(tmp_path / "again")
    one, two = shared(IMAGES), again(IMAGES)
    assert type(one) is type(two)
    for name in one.arg_constraints:
        if hasattr(one, name):
            assert torch.equal(getattr(one, name), getattr(two, name))


def test_the_files_hold_numbers_and_text(run):
    names = {path.name for path in (run / "pretrained").iterdir()}
    assert names >= {"model.safetensors", "config.json"}
    assert not any(name.endswith((".bin", ".pt", ".ckpt", ".pkl")) for name in names)
    with safe_open(run / "pretrained/model.safetensors", "pt") as file:
        assert all(name.startswith("program.") for name in file.keys())  # noqa: SIM118
    config = json.loads((run / "pretrained/config.json").read_text())
    assert config["image_shape"] == [1, 8, 8]
    assert config["program"]["class_path"].startswith("probcl.programs.")


def test_a_program_can_be_shared_without_a_run(tmp_path):
    encoder = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
    config = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": encoder}}
    shared = Pretrained(config, (1, 8, 8))
    assert isinstance(shared.program, VSimCLR)
    assert isinstance(shared.program.encoder, ConvNet)
    shared.save_pretrained(tmp_path)
    assert torch.equal(Pretrained.from_pretrained(tmp_path)(IMAGES), shared(IMAGES))


def test_weights_that_are_missing_are_noticed(run, tmp_path):
    config = json.loads((run / "pretrained/config.json").read_text())
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((run / "pretrained" / name).read_bytes())
    init = config["program"]["init_args"]
    init["encoder"]["init_args"]["widths"] = [32, 64, 128, 128]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"program\.encoder"):
        Pretrained.from_pretrained(tmp_path)


def test_a_configuration_of_no_program_is_refused():
    with pytest.raises(ValueError, match="program: this configuration makes none"):
        Pretrained({"class_path": "probcl.programs.None"}, (1, 8, 8))
