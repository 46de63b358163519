"""`scripts/test.sh`, and the flag of the tests."""

import argparse
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, server_command


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_needs_no_environment(flag, tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "test.sh", tmp_path / "scripts")
    ended = subprocess.run([tmp_path / "scripts" / "test.sh", flag], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("Set up, lint, then test:\n")
    assert "--slow includes the slow tests" in ended.stdout


@pytest.mark.parametrize("command", ["no_such_server --flag", "/no/such/server", "", "/"])
def test_a_server_to_test_that_is_not_there_is_an_error_before_any_test(command):
    with pytest.raises(argparse.ArgumentTypeError, match="no program .*; expected the command of a model server"):
        server_command(command)


def test_a_server_to_test_may_have_flags():
    assert server_command(f"{sys.executable} -m server --flag") == f"{sys.executable} -m server --flag"
