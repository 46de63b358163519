"""The import picture: data flows one way, and so do imports, function-level ones included."""

import ast
from functools import cache
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

# What each room may import besides itself and the modules directly in rnn_serving/.
ROOMS = {
    "rnn_serving.clients": (),
    "rnn_serving.http_server": (),
    "rnn_serving.model_server": ("rnn_serving.http_server",),
    "rnn_serving.endpoint": ("rnn_serving.model_server",),
    "rnn_serving.http_worker": ("rnn_serving.endpoint", "rnn_serving.http_server"),
}
STEPS = {path.stem for path in ROOT.glob("*.py")}
OUTSIDE = STEPS | {"benchmarks", "deploy", "examples", "scripts", "tests"}


@cache
def imports():
    """Return {module: set of the project's modules that it imports}."""
    rooms = ("rnn_serving", "benchmarks", "deploy", "examples")
    files = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {name: _imported(path, modules) for name, path in modules.items()}


def _imported(path, modules):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules & set(modules) or {node.module}
    return found & set(modules)


def room_of(module):
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def test_there_is_no_circle():
    assert list(TopologicalSorter(imports()).static_order())  # raises CycleError


def test_nothing_in_rnn_serving_imports_a_step_a_benchmark_an_example_or_a_script():
    for module, imported in imports().items():
        if module.startswith("rnn_serving"):
            assert not {name for name in imported if name.split(".")[0] in OUTSIDE}, module


def test_no_file_of_rnn_serving_starts_one_of_another_folder():
    for path in (ROOT / "rnn_serving").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        assert not any(node.attr in ("Popen", "check_call", "check_output") for node in calls), path


@pytest.mark.parametrize("room", [None, *ROOMS])
def test_a_room_imports_only_what_is_below_it(room):
    allowed = {room, None, *(ROOMS[room] if room else ())}
    for module, imported in imports().items():
        if module.startswith("rnn_serving") and room_of(module) == room:
            assert {room_of(name) for name in imported} <= allowed, module
