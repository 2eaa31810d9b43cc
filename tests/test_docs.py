"""What the documents show works."""

import json
import re
from pathlib import Path

from command_line import call, options

GUIDE = (Path(__file__).parents[1] / "docs" / "guide.md").read_text("utf-8")


def test_the_guides_own_class_is_trained_and_aligned(tiny_settings, monkeypatch, capsys, tmp_path):
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "TwoLayers" in b)
    (tmp_path / "guides_crm.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    settings = [*tiny_settings, "crm.model=guides_crm:TwoLayers", "crm.options.width=24"]
    for stage in (1, 2):
        status, out, err = call(monkeypatch, capsys, "train", "--stage", stage, "--out", "r",
                                "--json", *options(settings))  # fmt: skip
        assert status == 0, err
    assert json.loads(out)["history"][-1]["align_loss"] > 0
