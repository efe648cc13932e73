"""The README: its examples say what they should, its commands are those of the CI, it is short."""

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
    program, posterior, evaluation = shown
    assert "torch.Size([5, 256, 64])" in program
    assert posterior.startswith("match likelihood of 720 items, 80 held out")
    assert "torch.Size([200, 5])" in posterior
    assert min(map(float, evaluation.split())) > 0.5
    assert (tmp_path / "report.html").is_file()


def test_two_commands_install_and_run():
    commands = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert [command.split("&&")[-1].strip() for command in commands] == [
        ".venv/bin/probcl fit",
        ".venv/bin/pytest",
    ]


def test_is_read_in_three_minutes_and_links_every_page():
    assert len(README.splitlines()) <= 200
    pages = {path.name for path in (ROOT / "notebooks/pages").glob("*.md")}
    assert pages == set(re.findall(r"notebooks/pages/(\w+\.md)\)", README))
