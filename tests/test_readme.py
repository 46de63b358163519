import importlib
import importlib.util
import os
import re
import shlex

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
IN_LINES = re.findall(r"`((?:python |scripts/|\./scripts/)[^`]+)`", README)
COMMANDS = [line.split("#")[0].strip(" &") for line in "\n".join([*BLOCKS, *IN_LINES]).splitlines()]


@pytest.mark.parametrize("command", sorted({command for command in COMMANDS if command.startswith("python ")}))
def test_a_python_command_of_the_readme_is_understood_by_its_script(command, monkeypatch):
    name, *flags = shlex.split(command.split("|")[0])[1:]
    if name == "-c":
        compile(flags[0], "README.md", "exec")
    elif name == "-m":
        assert importlib.util.find_spec(flags[0]), flags[0]
    else:
        assert (ROOT / name).is_file()
        monkeypatch.syspath_prepend((ROOT / name).parent)  # as Python does with a script that it runs
        spec = importlib.util.spec_from_file_location("script_of_the_readme", ROOT / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.parse_arguments([flag for flag in flags if not flag.startswith("DIR")])


@pytest.mark.parametrize("command", sorted({command for command in COMMANDS if re.match(r"(\./)?scripts/", command)}))
def test_a_shell_command_of_the_readme_is_an_executable_of_the_project(command):
    assert os.access(ROOT / shlex.split(command)[0], os.X_OK)


def test_every_file_the_readme_names_is_there():
    for name in re.findall(r"\]\(([\w./]+)\)|^    (\w+\.py) |^(\w+\.py) ", README, re.MULTILINE):
        path = next(filter(None, name))
        assert (ROOT / path).exists() or (ROOT / "rnn_serving" / path).exists(), path


def test_the_readme_shows_figures_not_placeholders():
    assert "@@" not in README
    assert len(re.findall(r"^\| (?:article|flask|rnn_serving.model_server)[^|]* \| \d+ \|", README, re.MULTILINE)) >= 6
