"""The containers of deploy/ agree with the programs that they run; test_container_life_cycle.py runs them."""

import re
import tomllib

import manifests
import pytest
from conftest import ROOT
from kustomize import OVERLAYS, documents

import flask_server
from rnn_serving.http_worker import gunicorn_server
from rnn_serving.model_server import __main__ as model_server
from rnn_serving.model_server import flags

OVERLAY_NAMES = sorted(path.name for path in OVERLAYS.iterdir())
# Every container that serves models, our programs or TensorFlow's.
CONTAINERS = {
    **{f"{name}-gateway": manifests.overlay(name, "gateway") for name in OVERLAY_NAMES},
    **{f"{name}-model-server": manifests.overlay(name, "model-server") for name in OVERLAY_NAMES},
    **{f"compose-{name}": manifests.service(name) for name in ("python-server", "cpp-server", "gateway")},
    "kserve": manifests.kserve(),
    "image": manifests.default_container(),
}
OURS = ["python", "-m", "rnn_serving.model_server", "--host=0.0.0.0"]
# Seconds for the requests in flight; the C++ server takes none.
DRAIN_S = {"flask_server": gunicorn_server.GRACE_S, "rnn_serving.model_server": model_server.GRACE_S}

each_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)


def program_and_arguments(container):
    """Return the module that a container runs, or the program, and its arguments."""
    words = container.command
    program, *arguments = words[2:] if words[:2] == ["python", "-m"] else words
    return program, arguments


@each_container
def test_the_arguments_are_those_of_the_program(container):
    program, arguments = program_and_arguments(container)
    if program == "flask_server":
        assert flask_server.parse_arguments(arguments).host == "0.0.0.0"
        return
    assert program in ("rnn_serving.model_server", "tensorflow_model_server")
    options = flags.parse(arguments)
    assert not options.flags_without_effect
    # The one flag that the C++ server does not have; it listens on all addresses.
    assert (options.host == "0.0.0.0") == (program == "rnn_serving.model_server")


@each_container
def test_files_in_the_arguments_are_mounted_and_ports_are_declared(container):
    _, arguments = program_and_arguments(container)
    for name, _, value in (argument.partition("=") for argument in arguments):
        if value.startswith("/"):
            assert any(value == mount or value.startswith(f"{mount}/") for mount in container.mounts), name
        if name in ("--port", "--rest_api_port"):
            assert int(value) in container.ports.values(), name


@pytest.mark.parametrize(
    ("python", "cpp"),
    [("python-model-server", "cpp-model-server"), ("compose-python-server", "compose-cpp-server")],
)
def test_both_model_servers_get_the_same_flags(python, cpp):
    ours, theirs = CONTAINERS[python].command, CONTAINERS[cpp].command
    assert (ours[:4], theirs[:1]) == (OURS, ["tensorflow_model_server"])
    assert ours[4:] == theirs[1:]


@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - {"image"}))  # an image cannot say how long
def test_there_is_time_for_the_hook_and_for_requests_in_flight(name):
    container = CONTAINERS[name]
    program, _ = program_and_arguments(container)
    hook_s = container.pre_stop.get("sleep", {}).get("seconds", 0)
    assert container.grace_s > hook_s + DRAIN_S.get(program, 0)


@pytest.mark.parametrize("name", manifests.compose_file()["services"])
def test_a_service_of_compose_is_restricted_and_its_health_is_checked(name):
    service = manifests.compose_file()["services"][name]
    assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "unless-stopped")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume["read_only"] for volume in service.get("volumes", ()) if isinstance(volume, dict))
    assert "healthcheck" in service or service["image"].startswith("rnn-serving:")


def test_compose_starts_one_of_two_model_servers():
    services = manifests.compose_file()["services"]
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"python-server": ["python"], "cpp-server": ["cpp"]}
    assert all(services[name]["networks"]["default"]["aliases"] == ["model-server"] for name in profiles)
    assert "COMPOSE_PROFILES=python\n" in (manifests.DEPLOY / ".env").read_text()


def test_images_have_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    texts = [
        path.read_text() for path in manifests.DEPLOY.rglob("*") if path.suffix in ("", ".yaml") and path.is_file()
    ]
    images = [image for name in OVERLAY_NAMES for image in images_of(name) if image["name"] == "rnn-serving"]
    tags = {tag for text in texts for tag in re.findall(r"rnn-serving:(\d[\w.]*)", text)}
    assert tags | {image["newTag"] for image in images} == {version}


def images_of(overlay):
    (kustomization,) = documents(OVERLAYS / overlay / "kustomization.yaml")
    return kustomization.get("images", ())
