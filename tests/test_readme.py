"""The README: its example runs, what it points at is there, its commands are those of the CI."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    shown = []
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
        shown.append(capsys.readouterr().out)
    program, direction, objectives, posterior, evaluation = shown
    assert "torch.Size([5, 256, 64])" in program
    assert "VonMisesFisher(loc: torch.Size([2])" in direction
    assert len(re.findall(r"tensor\(\d+\.\d+\)", objectives)) == 3
    assert posterior.startswith("match likelihood of 720 items, 80 held out")
    assert "torch.Size([200, 5])" in posterior
    assert min(map(float, evaluation.split())) > 0.5
    assert (tmp_path / "report.html").is_file()


def test_paths_exist():
    paths = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    paths += re.findall(r"`((?:probcl|notebooks|experiments)/[\w./]*)`", README)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_two_commands_install_and_run():
    commands = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert [command.split("&&")[-1].strip() for command in commands] == [
        ".venv/bin/probcl fit",
        ".venv/bin/pytest",
    ]
