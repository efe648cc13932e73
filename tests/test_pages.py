"""README and pages: every block of code runs or is parsed as it stands, no link leads nowhere."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from probcl.cli import main
from probcl.evaluation import SCORES
from probcl.sweep import read_sweep

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "notebooks/pages"
FILES = [ROOT / "README.md", *sorted(PAGES.rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
BLOCKS = [
    (name, *found)
    for name, text in TEXTS.items()
    for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
]
PYTHON = {code: name for name, language, code in reversed(BLOCKS) if language == "python"}
EXAMPLES = [  # those of the README run in its own test
    pytest.param(code, id=f"{Path(name).stem}-{number}")
    for number, (code, name) in enumerate(PYTHON.items())
    if name != "README.md"
]
SHELL = [line for _, language, code in BLOCKS if language == "sh"
         for line in code.replace("\\\n", " ").splitlines()]  # fmt: skip
COMMANDS = sorted({
    words[1:] for line in SHELL
    for words in [tuple(shlex.split(line.partition(" > ")[0], comments=True))]
    if words[0] == "probcl"
})  # fmt: skip
LIGHTNING = [words for words in COMMANDS if words[0] in ("fit", "test", "predict")]
OTHERS = [words for words in COMMANDS if words not in LIGHTNING]
QUICK = 3  # commands of Lightning that are parsed in every run of the tests, the longest ones


def of_my_own() -> str:
    """Return the example of classes of one's own, which a page has one write to a module."""
    return next(code for code in PYTHON if "class MyPrior" in code)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the module that the pages have one write, and the repository's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypackage", raising=False)
    (tmp_path / "mypackage.py").write_text(of_my_own())
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "run.yaml").write_text("trainer: {max_epochs: 1}\n")
    yield tmp_path
    sys.modules.pop("mypackage", None)


def test_every_block_says_its_language():
    assert {language for _, language, _ in BLOCKS} <= {"python", "sh", "yaml", "text"}
    fences = sum(len(re.findall("^```", text, flags=re.MULTILINE)) for text in TEXTS.values())
    assert fences == 2 * len(BLOCKS)


@pytest.mark.parametrize("code", EXAMPLES)
def test_python_runs(code, here, trained, monkeypatch, capsys):
    (here / "runs").mkdir()
    (here / "runs/vsimclr-digits-seed0").symlink_to(trained)
    before = dict(SCORES)
    try:
        exec(compile(code, "page", "exec"), {"__name__": "page"})
    finally:
        SCORES.clear()
        SCORES.update(before)
    shown = capsys.readouterr()
    assert not shown.err
    assert bool(shown.out) == ("print(" in code)


def test_the_objectives_give_three_numbers(capsys):
    code = next(code for code in PYTHON if "from probcl.objectives import" in code)
    exec(compile(code, "page", "exec"), {})
    assert len(re.findall(r"tensor\(\d+\.\d+\)", capsys.readouterr().out)) == 3


def test_shell_is_shell():
    script = "\n".join(code for _, language, code in BLOCKS if language == "sh")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    known = {"probcl", "pip", "python3", "sbatch", "torchrun", "tensorboard"}
    assert {line.split()[0] for line in SHELL if line.strip()} <= known


def test_scripts_and_files_of_the_repository_are_there():
    named = re.findall(r"\b(?:probcl|notebooks|experiments)/[\w./-]+\.\w+", "\n".join(SHELL))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def parse(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--print_config"])
    assert not stopped.value.code, capsys.readouterr().err
    config = yaml.safe_load(capsys.readouterr().out.partition("configuration: ")[0])
    assert config["model"]["program"]["class_path"]


@pytest.mark.parametrize("words", sorted(LIGHTNING, key=len)[-QUICK:], ids=" ".join)
def test_options_are_there(words, here, capsys):
    parse(words, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("words", sorted(LIGHTNING, key=len)[:-QUICK], ids=" ".join)
def test_all_options_are_there(words, here, capsys):
    parse(words, capsys)


class ParsedError(Exception):
    """The arguments of a command are right; nothing more is done."""


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_arguments_are_there(words, here, monkeypatch, capsys):
    if words[0] in ("datasets", "programs", "scores") or words[0].startswith("-"):
        main(list(words))
        return
    name = "parse_known_args" if words[0] == "reproduce" else "parse_args"
    whole = getattr(argparse.ArgumentParser, name)

    def only_parse(self, *args, **kwargs):
        raise ParsedError(whole(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, name, only_parse)
    with pytest.raises(ParsedError):
        main(list(words))


@pytest.mark.parametrize("code", [code for _, language, code in BLOCKS if language == "yaml"])
def test_yaml_is_of_a_sweep_or_of_a_run(code, here, capsys):
    (here / "file.yaml").write_text(code)
    if "vary" not in yaml.safe_load(code):
        parse(["fit", "--config=file.yaml"], capsys)
        return
    sweep = read_sweep(here / "file.yaml")
    first = {
        option: values[0] if isinstance(values, list) else values["low"]
        for option, values in sweep.vary.items()
    }
    parse(["fit", *(f"--{name}={value}" for name, value in {**sweep.fit, **first}.items())], capsys)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    folder = (ROOT / name).parent
    text = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!http)([^)]+)\)", text)
    for link in links:
        path, _, anchor = link.partition("#")
        target = folder / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            slugs = (re.sub(r"[^\w -]", "", heading.lower()) for heading in headings)
            assert anchor in {slug.replace(" ", "-") for slug in slugs}, link
    named = re.findall(r"`((?:probcl|notebooks|experiments)/[\w./]*)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_links_are_checked():
    assert "](experiments/README.md)" in TEXTS["README.md"]
    assert "](../02_programs.ipynb)" in TEXTS["notebooks/pages/start.md"]


def test_the_site_has_every_page():
    listed = (ROOT / "notebooks/mkdocs.yml").read_text()
    for path in PAGES.rglob("*.md"):
        assert f"- {path.relative_to(PAGES)}\n" in listed
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert f"- notebooks/{path.stem}.md\n" in listed
