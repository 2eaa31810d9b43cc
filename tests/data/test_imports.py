"""What serving imports: the prepared log alone, without parsers and on every platform."""

import subprocess
import sys


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_log_imports_no_parser():
    found = set(run("import sys, corellarec.data.log; print(*sys.modules)"))
    ours = {name for name in found if name.startswith("corellarec.data.")}
    needed = ("categories", "counts", "levels", "liked", "log", "negatives", "preparation",
              "splits", "statistics", "stored_log")  # fmt: skip
    assert ours == {f"corellarec.data.{name}" for name in needed}


def test_no_module_of_the_data_needs_posix():
    code = "import sys; sys.modules['resource'] = None; import corellarec.data.prepare"
    assert run(code) == []
