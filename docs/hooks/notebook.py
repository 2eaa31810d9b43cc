"""Executed notebooks as pages."""

import json
from typing import Any


def as_markdown(text: str) -> str:
    """A notebook's cells, each with the outputs that are stored in it.

    Args:
        text: A notebook in format 4. Outputs may be text, HTML and SVG; an error is refused.

    Raises:
        ValueError: If a cell ended in an error, or was not executed.
    """
    parts = []
    for number, cell in enumerate(json.loads(text)["cells"], 1):
        source = _text(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            if cell["execution_count"] is None:
                raise ValueError(f"cell {number} was not executed: run the notebook and save it")
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output, number) for output in cell["outputs"]]
    return "\n\n".join(parts)


def _output(output: dict[str, Any], number: int) -> str:
    if output["output_type"] == "error":
        raise ValueError(f"cell {number} ended in {output['ename']}: {output['evalue']}")
    data = output.get("data", {"text/plain": output.get("text", "")})
    for rich in ("text/html", "image/svg+xml"):
        if rich in data:  # blank lines would end the block
            lines = [line for line in _text(data[rich]).splitlines() if line.strip()]
            return "<div>\n" + "\n".join(lines) + "\n</div>"
    return f"```text\n{_text(data['text/plain']).rstrip()}\n```"


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
