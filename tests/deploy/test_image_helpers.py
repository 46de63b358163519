"""The two small programs of the image, and the linters of scripts/test.sh."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from deploy import health_check, requirements


def test_the_image_gets_the_dependencies_of_the_project_and_of_extras():
    project = {"dependencies": ["flask"], "optional-dependencies": {"s3": ["s3fs"], "gs": ["gcsfs"]}}
    assert requirements.requirements(project, []) == ["flask"]
    assert requirements.requirements(project, ["gs", "s3"]) == ["flask", "gcsfs", "s3fs"]
    with pytest.raises(SystemExit, match=r"extras \['s4'\]: not in pyproject.toml; expected some of \['gs', 's3'\]"):
        requirements.requirements(project, ["s3", "s4"])


def test_a_health_check_without_a_server_says_what_it_asked(capsys):
    assert health_check.main(["http://127.0.0.1:1/readyz", "http://127.0.0.1:1"]) == 1
    said = capsys.readouterr().out
    assert re.fullmatch(r"http://127.0.0.1:1/readyz: .*refused; http://127.0.0.1:1: .*refused; expected one .*\n", said)


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        (["hadolint", "-"], "FROM scratch\nADD . /src\n", "DL3020"),
        (["yamllint", "--config-file", ROOT / ".yamllint.yaml", "-"], "key: 1\nkey: 2\n", "duplication of key"),
    ],
)
def test_a_linter_finds_a_fault(command, text, message):
    program, *arguments = command
    words = [f"{sys.prefix}/bin/{program}", *arguments]
    ended = subprocess.run(words, input=text, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert message in ended.stdout
