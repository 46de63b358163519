"""What `scripts/serve_tfserving.sh` mounts into a container, with a `docker` that only prints its command line."""

import os
import re
import subprocess

import pytest
from conftest import ROOT
from launcher import add_executable, make_path, serve


@pytest.fixture
def docker(tmp_path):
    """A directory to use as PATH, with a `docker` that has the image."""
    path = make_path(tmp_path)
    add_executable(path, "docker")
    return path


@pytest.fixture
def model(tmp_path):
    """A directory with one version, whose file is empty: no server reads it."""
    return add_model(tmp_path / "models" / "m")


def add_model(base, version=1, file="saved_model.pb"):
    (base / str(version)).mkdir(parents=True)
    (base / str(version) / file).touch()
    return base


def mounts_of(process):
    """Return the paths that are mounted, each read-only and at the same path."""
    assert process.returncode == 0, process.stderr
    found = re.findall(
        r'--mount type=bind,"?source=(.*?)"?,"?target=(.*?)"?,readonly ', process.stdout.splitlines()[-1]
    )
    assert all(source == target for source, target in found)
    return [source for source, _ in found]


FILE_FLAGS = (
    "--batching_parameters_file",
    "--monitoring_config_file",
    "--ssl_config_file",
    "--platform_config_file",
    "--tensorflow_session_config_file",
)


@pytest.mark.parametrize("flag", FILE_FLAGS)
@pytest.mark.parametrize("name", ["a file.txt", "a,b.txt"])
def test_a_file_that_a_flag_names_is_mounted(docker, model, tmp_path, flag, name):
    (tmp_path / name).touch()
    process = serve(docker, model, f"{flag}={tmp_path / name}")
    assert mounts_of(process) == [str(model), str(tmp_path / name)]
    assert process.stdout.splitlines()[-1].endswith(f" {flag}={tmp_path / name}")


def test_a_relative_path_is_made_absolute(docker, model, tmp_path, monkeypatch):
    (tmp_path / "batching.txt").touch()
    monkeypatch.chdir(tmp_path)
    process = serve(docker, "models/m", "--batching_parameters_file=batching.txt")
    assert mounts_of(process) == [str(model), str(tmp_path / "batching.txt")]
    assert process.stdout.splitlines()[-1].endswith(
        f"--model_base_path={model} --batching_parameters_file={tmp_path / 'batching.txt'}"
    )


def test_a_file_in_a_directory_that_is_mounted_needs_no_mount(docker, model):
    (model / "batching.txt").touch()
    assert mounts_of(serve(docker, model, f"--batching_parameters_file={model / 'batching.txt'}")) == [str(model)]


@pytest.mark.parametrize("flag", [*FILE_FLAGS, "--model_config_file"])
def test_a_file_that_is_missing_is_refused_by_name(docker, model, tmp_path, flag):
    process = serve(docker, model, f"{flag}={tmp_path / 'none'}")
    assert process.returncode == 1
    assert process.stderr.endswith(
        f"error: {flag}={tmp_path / 'none'}: no such file; expected one to mount into the container\n"
    )


def test_a_socket_in_a_container_is_refused(docker, model):
    process = serve(docker, model, "--grpc_socket_path=/tmp/socket")
    assert process.returncode == 1
    assert (
        "--grpc_socket_path=/tmp/socket: a socket in a container cannot be reached; expected --port" in process.stderr
    )


def test_versions_that_are_links_are_mounted_where_they_point(docker, model, tmp_path):
    store = tmp_path / "store" / "abc123"
    store.mkdir(parents=True)
    (model / "4").symlink_to(store)
    (model / "5").symlink_to("../../store/abc123")
    (model / "6").symlink_to("nowhere")
    assert mounts_of(serve(docker, model)) == [str(model), str(store)]


@pytest.mark.parametrize("base", ["file://{model}", "{model}/"])
def test_other_forms_of_a_base_path_are_mounted(docker, model, base):
    assert mounts_of(serve(docker, base.format(model=model))) == [str(model)]


def test_a_base_path_on_another_machine_is_passed_on(docker):
    process = serve(docker, "gs://bucket/m")
    assert mounts_of(process) == []
    assert process.stdout.splitlines()[-1].endswith("--model_base_path=gs://bucket/m")


def test_a_version_may_be_a_text_file(docker, tmp_path):
    base = add_model(tmp_path / "t", file="saved_model.pbtxt")
    assert mounts_of(serve(docker, base)) == [str(base)]


CONFIG = """
# base_path: "/nowhere"
model_config_list {{
  config {{ name: "one" base_path: "{one}" model_platform: "tensorflow" }}  # not base_path: "/nowhere"
  config {{ name: 'two#' base_path:
    '{two}' }} config {{ name: "same" base_path:"file://{one}" }}
  config {{ name: "far" base_path: "s3://bucket/m" }} config {{ name: "relative" base_path: "models/m" }}
}}"""


@pytest.fixture
def config(tmp_path):
    """A file with two models, one of them with a space, a comma and a # in its path."""
    one, two = add_model(tmp_path / "one"), add_model(tmp_path / "a, b#c")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.config").write_text(CONFIG.format(one=one, two=two))
    return tmp_path / "config" / "models.config"


def test_the_models_of_a_config_file_are_mounted_and_no_other_is_asked_for(docker, config, tmp_path):
    process = serve(docker, None, f"--model_config_file={config}")
    assert mounts_of(process) == [str(tmp_path / "one"), str(tmp_path / "a, b#c"), str(config)]
    assert process.stdout.splitlines()[-1].endswith(
        f"tensorflow/serving --port=9000 --rest_api_port=8501 --model_config_file={config}"
    )


def test_of_a_config_file_that_is_polled_the_directory_is_mounted(docker, config):
    process = serve(docker, None, f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=5")
    assert mounts_of(process)[-1] == str(config.parent)


def test_a_model_of_a_config_file_that_is_missing_is_refused_by_name(docker, config, tmp_path):
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    process = serve(docker, None, f"--model_config_file={config}")
    assert process.returncode == 1
    assert f"{config}: base_path {tmp_path / 'one'}: no such directory; expected one to mount" in process.stderr


@pytest.mark.parametrize("program", ["tensorflow_model_server", "python"])
def test_without_a_container_the_flags_of_a_config_file_are_passed_on(tmp_path, config, program):
    path = make_path(tmp_path)
    add_executable(path, program)
    process = serve(path, None, f"--model_config_file={config}", "--enable_batching", PYTHON=str(path / "python"))
    assert process.stdout.splitlines()[-1].endswith(
        f" --port=9000 --rest_api_port=8501 --model_config_file={config} --enable_batching"
    )


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda script: script.name)
def test_the_scripts_use_nothing_that_bash_3_2_lacks(script):
    text = script.read_text(encoding="utf-8")
    for newer in (
        r"\b(declare|local|typeset) -[aAgn]*[Agn]",
        r"\$\{\w+(,,?|\^\^?|@[A-Za-z])\}",
        r"\b(mapfile|readarray|coproc)\b",
    ):
        assert not re.search(newer, text)
    # Under `set -u`, bash before 4.4 takes an empty array for an unset variable.
    for array in re.findall(r"\b(\w+)=\(\)", text):
        for use in re.finditer(rf'"\$\{{{array}\[[@*]\]\}}"', text):
            assert f"${{{array}[@]+" in text[use.start() - len(array) - 8 : use.start()]
    assert subprocess.run(["bash", "-n", script], env=os.environ, check=False).returncode == 0
