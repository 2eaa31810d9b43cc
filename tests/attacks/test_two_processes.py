"""Two processes in one directory: one works, the other says who does."""

import shutil
import time

from calls import Call, call, figures, settings
from test_kills import fast_checkpoints


def test_two_runs_at_once(attack, tmp_path, scratch, tiny_settings):
    out = tmp_path / "run"
    command = ["run", *settings(tiny_settings), "--out", out, "--resume"]
    assert call(command, scratch, patch=fast_checkpoints).kind == "done"
    expected = figures(out)
    for _ in range(attack.times(1, 20)):
        shutil.rmtree(out, ignore_errors=True)
        first = Call(command, scratch, fast_checkpoints)
        time.sleep(attack.random.uniform(0, 2.0))
        second = Call(command, scratch.with_name("second.txt"), fast_checkpoints)
        ends = {first.wait().kind: first, second.wait().kind: second}
        refused = ends.get("refused")
        if ends.keys() != {"done", "refused"}:
            # Both may get through one after the other, if the second came late.
            attack.note(
                "both done" if set(ends) == {"done"} else str(set(ends)), bad="done" not in ends
            )
        elif "is in use by process" not in refused.output.read_text():
            attack.note("another refusal", refused.output.read_text(), bad=True)
        else:
            attack.note("one done, one told who works there")
        if figures(out) != expected:
            attack.note("other result", bad=True)
        again = call(command, scratch)
        attack.note(f"later resume: {again.kind}", again.text, bad=again.kind != "done")
