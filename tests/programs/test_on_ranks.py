"""Two ranks train a program, its temperature too, as one process does with the whole batch."""

import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightly", reason="needs lightly: pip install 'probcl[baselines]'")

HERE = Path(__file__).parent
WORKER = HERE / "gloo_programs.py"
_SPEC = importlib.util.spec_from_file_location(WORKER.stem, WORKER)
gloo_programs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(gloo_programs)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    with ExitStack() as stack:
        logs = [stack.enter_context((folder / f"{rank}.log").open("w")) for rank in range(2)]
        workers = [
            subprocess.Popen(
                [sys.executable, WORKER, str(rank), "2", folder], stderr=log, env=environment
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = [worker.wait(timeout=240) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    assert not any(codes), "".join(log.read_text() for log in folder.glob("*.log"))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", gloo_programs.PROGRAMS)
def test_weights_and_queue_are_those_of_one_process(ranks, name):
    expected = gloo_programs.train(name)
    for result in ranks:
        torch.testing.assert_close(result[name], expected, rtol=1e-9, atol=1e-10)
