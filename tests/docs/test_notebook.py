"""A notebook becomes a page, with the outputs that are stored in it."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs" / "hooks"))
import notebook


def code(source, *outputs, count=1):
    return {"cell_type": "code", "source": source, "execution_count": count, "outputs": outputs}


def page(*cells):
    return notebook.as_markdown(json.dumps({"cells": cells, "nbformat": 4}))


def test_cells_and_outputs_come_in_order():
    table = {"text/html": ["<table>\n", "\n", "</table>"], "text/plain": ["a frame"]}
    text = page(
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        code(["print(1)\n", "frame"], {"output_type": "stream", "text": ["1\n"]},
             {"output_type": "execute_result", "data": table}),
    )  # fmt: skip
    assert text == (
        "# Title\ntext\n\n```python\nprint(1)\nframe\n```\n\n```text\n1\n```\n\n"
        "<div>\n<table>\n</table>\n</div>"
    )


def test_a_notebook_that_failed_or_did_not_run_is_refused():
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'"}
    with pytest.raises(ValueError, match="cell 1 ended in KeyError: 'x'"):
        page(code("x", error))
    with pytest.raises(ValueError, match="cell 1 was not executed"):
        page(code("x", count=None))
