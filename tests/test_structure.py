"""What a reader meets: documented public names, files of a readable size, small classes."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import corellarec as cr

SOURCE = Path(cr.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES, MOST_METHODS = 400, 15


def public_callables():
    """Every public function, class and method that is not an error, with its name."""
    for name in cr.__all__:
        value = getattr(cr, name)
        if isinstance(value, type) and issubclass(value, Exception):
            continue
        yield name, value
        if inspect.isclass(value) and value.__module__.startswith("corellarec"):
            for method, one in vars(value).items():
                function = getattr(one, "__func__", one)
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize("name", cr.__all__)
def test_every_public_name_has_a_docstring(name):
    assert len(inspect.getdoc(getattr(cr, name)) or "") > 20


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(n, v, id=n) for n, v in public_callables()]
)
def test_arguments_results_and_errors_are_documented(name, value):
    text = inspect.getdoc(value) or ""
    if name == "Config":  # settings are documented field by field
        return
    parameters = [p for p in inspect.signature(value).parameters if p not in ("self", "cls")]
    if parameters:
        assert "Args:" in text, f"{name} has arguments and no section Args"
        for parameter in parameters:
            assert parameter in text, f"{name}: argument {parameter} is not documented"
    source = inspect.getsource(value)
    if inspect.isfunction(value) and "raise " in source:
        assert "Raises:" in text, f"{name} raises and has no section Raises"


def test_the_main_names_have_an_example():
    for name in ("CoReLLa", "Cascade", "Evaluation", "audit", "evaluate"):
        assert ">>>" in (inspect.getdoc(getattr(cr, name)) or ""), name


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if ">>>" in path.read_text("utf-8")],
    ids=lambda path: path.relative_to(SOURCE).as_posix(),
)
def test_the_examples_of_docstrings_run(path):
    name = ".".join(["corellarec", *path.relative_to(SOURCE).with_suffix("").parts])
    module = importlib.import_module(name.removesuffix(".__init__"))
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_no_file_is_longer_than_a_reader_can_hold():
    lines = {str(p.relative_to(SOURCE)): len(p.read_text("utf-8").splitlines()) for p in MODULES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_class_has_too_many_public_methods():
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = {
                    one.name
                    for one in node.body
                    if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")
                }
                found[f"{path.name}: {node.name}"] = len(methods)
    assert {name: count for name, count in found.items() if count >= MOST_METHODS} == {}
