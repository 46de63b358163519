"""The commands and links in the examples' READMEs."""

import importlib
import os
import re
import shlex

import pytest
from conftest import ROOT

READMES = sorted((ROOT / "examples").glob("*/README.md"))


def commands(readme):
    """Return the commands in the bash blocks of a README."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
    return [command.strip(" &") for line in "".join(blocks).splitlines() for command in line.split(" | ")]


def test_every_example_has_a_readme():
    folders = {path.parent for path in (ROOT / "examples").glob("*/__init__.py")}
    assert {readme.parent for readme in READMES} == folders


@pytest.mark.parametrize(
    "command", sorted({command for readme in READMES for command in commands(readme) if command.startswith("python ")})
)
def test_a_python_command_is_understood_by_its_program(command):
    name, *flags = shlex.split(command)[1:]
    if name == "-c":
        compile(flags[0], "README.md", "exec")
    elif name == "-m":
        module = (
            flags[0]
            if importlib.util.find_spec(flags[0]).submodule_search_locations is None
            else f"{flags[0]}.__main__"
        )
        importlib.import_module(module).parse_arguments(flags[1:])
    else:
        importlib.import_module(name.removesuffix(".py")).parse_arguments(flags)


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.parent.name)
def test_the_scripts_and_links_of_a_readme_exist(readme):
    for command in commands(readme):
        if command.startswith("scripts/"):
            assert os.access(ROOT / shlex.split(command)[0], os.X_OK), command
    for link in re.findall(r"\]\(([^):]+)\)", readme.read_text()):
        assert (readme.parent / link).exists(), link
