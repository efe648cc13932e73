"""What is shared of a run: weights without code, loaded bit for bit, and a card that is true."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from probcl.cli import main
from probcl.data import load_digits
from probcl.hub import Pretrained
from probcl.nn import ConvNet
from probcl.programs import VSimCLR

QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--evaluate=false"]
IMAGES = load_digits()[1].images


@pytest.fixture(scope="module", params=["VSimCLR", "VarCon", "SimCLR"])
def run(request, trained, tmp_path_factory):
    if request.param == "VSimCLR":
        return trained
    folder = tmp_path_factory.mktemp("run") / "run"
    main(["fit", *QUICK, f"--model.program={request.param}", f"--run_dir={folder}"])
    return folder


def parameters(posterior):
    return {
        name: getattr(posterior, name)
        for name in posterior.arg_constraints
        if hasattr(posterior, name)
    }


def test_a_run_shares_its_program_bit_for_bit(run, tmp_path):
    shared = Pretrained.from_pretrained(run)
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = {name.removeprefix("program."): w for name, w in checkpoint.items()}
    assert shared.program.state_dict().keys() == weights.keys()
    for name, weight in shared.program.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert not shared.training
    shared.save_pretrained(tmp_path / "again")
    again = Pretrained.from_pretrained(str(tmp_path / "again"))
    one, two, three = shared(IMAGES), again(IMAGES), shared.program(IMAGES)
    assert type(one) is type(two) is type(three)
    assert parameters(one)
    for name, value in parameters(one).items():
        assert torch.equal(value, parameters(two)[name])
        assert torch.equal(value, parameters(three)[name])


def test_the_files_hold_numbers_and_text(run):
    names = {path.name for path in (run / "pretrained").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    with safe_open(run / "pretrained/model.safetensors", "pt") as file:
        assert all(name.startswith("program.") for name in file.keys())  # noqa: SIM118
    config = json.loads((run / "pretrained/config.json").read_text())
    assert config["image_shape"] == [1, 8, 8]
    assert config["program"]["class_path"].startswith("probcl.programs.")


def test_what_is_shared_tells_of_no_folder_of_the_machine(tmp_path):
    np.savez(tmp_path / "mine.npz", **{
        f"{part}_{name}": values for part in ("train", "test")
        for name, values in (("images", np.zeros((40, 1, 8, 8))), ("labels", np.arange(40) % 2))
    })  # fmt: skip
    data = ["--data=Arrays", f"--data.path={tmp_path / 'mine.npz'}", "--data.batch_size=20"]
    main(["fit", *QUICK, *data, f"--run_dir={tmp_path / 'run'}"])
    for path in (tmp_path / "run" / "pretrained").iterdir():
        text = path.read_bytes()
        assert str(tmp_path).encode() not in text
    assert "mine.npz" in (tmp_path / "run" / "pretrained" / "config.json").read_text()


def test_the_model_card_says_program_data_figures_and_how_to_load(trained, tmp_path):
    Pretrained.from_pretrained(trained).save_pretrained(tmp_path)
    top1 = json.loads((trained / "metrics.json").read_text())["probe/top1"]
    for folder in (trained / "pretrained", tmp_path):  # also where it is saved again
        card = (folder / "README.md").read_text()
        for text in ("# VSimCLR", "(1, 8, 8)", "Digits", "from_pretrained", "temperature: 0.2"):
            assert text in card
        assert f"| probe/top1 | {top1:.4g} |" in card
        assert "pushed" not in card


def test_the_model_card_says_how_to_load_it_as_it_stands(trained):
    card = (trained / "pretrained/README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("THIS FOLDER OR REPOSITORY", str(trained / "pretrained"))
    names = {"images": IMAGES}
    exec(compile(code, "README.md", "exec"), names)
    assert names["posterior"].batch_shape == (len(IMAGES),)


def test_the_model_card_of_a_run_without_evaluation_says_so(run):
    card = (run / "pretrained/README.md").read_text()
    assert ("no figures" in card) != ("## Figures" in card)
    assert ("no figures" in card) != (run / "metrics.json").exists()


def test_a_program_can_be_shared_without_a_run(tmp_path):
    encoder = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
    config = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": encoder}}
    shared = Pretrained(config, (1, 8, 8))
    assert isinstance(shared.program, VSimCLR)
    assert isinstance(shared.program.encoder, ConvNet)
    shared.save_pretrained(tmp_path)
    assert torch.equal(Pretrained.from_pretrained(tmp_path)(IMAGES).loc, shared(IMAGES).loc)
    assert "Figures" not in (tmp_path / "README.md").read_text()


def test_weights_that_are_missing_are_noticed(trained, tmp_path):
    config = json.loads((trained / "pretrained/config.json").read_text())
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((trained / "pretrained" / name).read_bytes())
    init = config["program"]["init_args"]
    init["encoder"]["init_args"]["widths"] = [32, 64, 128, 128]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"program\.encoder"):
        Pretrained.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"path: there is no folder \.\./nope, and no repository"):
        Pretrained.from_pretrained("../nope")


def test_a_configuration_of_no_program_is_refused():
    with pytest.raises(ValueError, match="program: this configuration cannot be built"):
        Pretrained({"class_path": "probcl.programs.None"}, (1, 8, 8))
