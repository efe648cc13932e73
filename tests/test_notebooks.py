"""Every notebook runs from top to bottom, and is stored as it ran."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TIMEOUT = 300  # seconds, for one cell

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@every_notebook
def test_is_stored_as_it_ran(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [cell for cell in notebook["cells"] if "execution" in cell["metadata"]]
    assert path.stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's machinery; a cell's stay in its output
@every_notebook
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    reason = "executing notebooks needs nbclient and ipykernel: pip install 'probcl[notebooks]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    failure = None
    try:
        client.execute()
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        failure = f"{path.name}: {error}"
    if failure:  # outside the handler, so that the cell's traceback is all there is to read
        pytest.fail(failure, pytrace=False)
