"""What deploy/ describes is valid, and its parts fit together; test_container_life_cycle.py runs it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib

import kubernetes_validate
import manifests
import pytest
import yaml
from conftest import ROOT
from manifests import DEPLOY, OVERLAYS

import flask_server
from deploy import health_check, requirements
from rnn_serving.model_server import flags

# The newest version that the validator knows, and one two minor versions older.
KUBERNETES_VERSIONS = ("1.37", "1.35")
COMPOSED = {path.name: manifests.compose(path) for path in sorted(OVERLAYS.iterdir())}
FILES = sorted([DEPLOY / "kubernetes" / "publisher.yaml", *(DEPLOY / "kserve").glob("*.yaml")])
DOCUMENTS = COMPOSED | {path.stem: manifests.documents(path) for path in FILES}
# The fields of custom resources that are used; their pods are checked as those of Kubernetes.
CUSTOM_RESOURCES = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): {
        *("annotations", "containers", "protocolVersions", "supportedModelFormats", "volumes"),
    },
    ("serving.kserve.io/v1beta1", "InferenceService"): {"predictor"},
}
PREDICTOR = {"maxReplicas", "minReplicas", "model", "scaleMetric", "scaleTarget"}


def all_documents():
    return [
        pytest.param(document, id=f"{name}-{'-'.join(manifests.identity(document))}")
        for name, found in DOCUMENTS.items()
        for document in found
    ]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("document", all_documents())
def test_a_document_is_valid(document, version):
    if (document["apiVersion"], document["kind"]) not in CUSTOM_RESOURCES:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_have_is_found():
    (document,) = manifests.documents(DEPLOY / "kubernetes" / "publisher.yaml")
    wrong = manifests.merge(document, {"spec": {"readOnlyRootFilesystem": True}})
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFilesystem"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_custom_resources_have_the_fields_of_kserve():
    runtime, _ = DOCUMENTS["serving-runtime"]
    (service,) = DOCUMENTS["inference-service"]
    for resource in (runtime, service):
        assert set(resource["spec"]) <= CUSTOM_RESOURCES[resource["apiVersion"], resource["kind"]]
    predictor, model = service["spec"]["predictor"], service["spec"]["predictor"]["model"]
    assert set(model) == {"modelFormat", "protocolVersion", "runtime", "storageUri"}
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (offered,) = runtime["spec"]["supportedModelFormats"]
    assert offered == {**model["modelFormat"], "autoSelect": False}
    # KServe merges the model into the container of this name.
    assert [container["name"] for container in runtime["spec"]["containers"]] == ["kserve-container"]
    assert model["storageUri"] == "pvc://models/mnist"
    pod = {name: runtime["spec"][name] for name in ("containers", "volumes")}
    pod |= {name: value for name, value in predictor.items() if name not in PREDICTOR}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mnist"}, "spec": pod}
    kubernetes_validate.validate(json.loads(json.dumps(pod).replace("{{.Name}}", "mnist")), "1.37", strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
@pytest.mark.parametrize("name", COMPOSED)
def test_overlays_are_composed_as_kubectl_does(name):
    command = ["kubectl", "kustomize", OVERLAYS / name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert in_order(COMPOSED[name]) == in_order(list(yaml.safe_load_all(output)))


def in_order(value):
    """Return a value with all lists of objects sorted: kustomize puts first what is new."""
    if isinstance(value, dict):
        return {name: in_order(item) for name, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted(map(in_order, value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


# Every container of deploy/ that serves models, ours or TensorFlow's.
CONTAINERS = {
    **{f"{name}-gateway": manifests.deployed(found, "gateway") for name, found in COMPOSED.items()},
    **{f"{name}-model-server": manifests.deployed(found, "model-server") for name, found in COMPOSED.items()},
    **{f"compose-{name}": manifests.service(name) for name in ("python-server", "cpp-server", "gateway")},
    "kserve": manifests.kserve(),
    "image": manifests.default_container(),
}


def program_and_arguments(container):
    """Return the module that a container runs, or the program, and its arguments."""
    words = container.command
    program, *arguments = words[2:] if words[:2] == ["python", "-m"] else words
    return program, arguments


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_the_arguments_are_those_of_the_program(container):
    program, arguments = program_and_arguments(container)
    if program == "flask_server":
        flask_server.parse_arguments(arguments)
    else:
        assert program in ("rnn_serving.model_server", "tensorflow_model_server")
        # The C++ server has the same flags but for this one.
        options = flags.parse(arguments)
        assert (options.host == "0.0.0.0") == (program == "rnn_serving.model_server")
        assert not options.flags_without_effect


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_what_the_arguments_name_is_there(container):
    """Files are below a mount, and ports are declared."""
    _, arguments = program_and_arguments(container)
    for argument in arguments:
        value = argument.partition("=")[2]
        if value.startswith("/"):
            assert any(value.startswith(f"{mount}/") or value == mount for mount in container.mounts), argument
        if re.match(r"--(rest_api_)?port=", argument):
            assert int(value) in container.ports.values(), argument


def test_both_model_servers_get_the_same_flags():
    python, cpp = (manifests.deployed(COMPOSED[name], "model-server").command for name in ("python", "cpp"))
    assert python[:4] == ["python", "-m", "rnn_serving.model_server", "--host=0.0.0.0"]
    assert (cpp[0], cpp[1:]) == ("tensorflow_model_server", python[4:])
    python, cpp = (manifests.service(name).command for name in ("python-server", "cpp-server"))
    assert (cpp[0], cpp[1:]) == ("tensorflow_model_server", python[4:])


def pods():
    """Return every pod that deploy/ describes for Kubernetes, by the name of its document."""
    documents = [document for found in DOCUMENTS.values() for document in found]
    specs = [document["spec"] for document in documents if document["kind"] in ("Deployment", "Pod", "ServingRuntime")]
    return [spec["template"]["spec"] if "template" in spec else spec for spec in specs]


@pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod["containers"][0]["name"])
def test_a_pod_may_do_no_more_than_the_restricted_standard_allows(pod):
    for container in pod["containers"]:
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert set(container["resources"]) == {"requests", "limits"}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_selects_pods_finds_them(name):
    found = COMPOSED[name]
    deployments = [document for document in found if document["kind"] == "Deployment"]
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in deployments]
    ports = {port["name"] for container in manifests.containers_of(found) for port in container["ports"]}
    selectors = {"Service": "selector", "PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}
    for document in found:
        spec = document["spec"] if document["kind"] in selectors else {}
        if spec:
            selector = spec[selectors[document["kind"]]]
            assert selector.get("matchLabels", selector) in labels
        assert {port["targetPort"] for port in spec.get("ports", ())} <= ports
        for rule in spec.get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} <= ports
        if document["kind"] == "HorizontalPodAutoscaler":
            target = document["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in [manifests.identity(deployment) for deployment in deployments]
    assert [deployment["spec"]["selector"]["matchLabels"] for deployment in deployments] == labels


def test_a_pod_has_time_for_the_hook_and_for_calls_in_flight():
    from rnn_serving.http_worker import gunicorn_server
    from rnn_serving.model_server import __main__ as model_server

    drain_s = {"flask_server": gunicorn_server.GRACE_S, "rnn_serving.model_server": model_server.GRACE_S}
    for name, container in CONTAINERS.items():
        program, _ = program_and_arguments(container)
        hook_s = container.pre_stop.get("sleep", {}).get("seconds", 0)
        if name != "image":  # an image cannot say how long
            assert container.grace_s > hook_s + drain_s.get(program, 0), name


def test_every_service_of_compose_is_restricted_and_is_asked_how_it_is():
    services = manifests.compose_file()["services"]
    assert {name for name, service in services.items() if "profiles" in service} == {"python-server", "cpp-server"}
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "unless-stopped"), (
            name
        )
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert all(volume["read_only"] for volume in service.get("volumes", ()) if isinstance(volume, dict)), name
        assert "healthcheck" in service or service["image"].startswith("rnn-serving:"), name
    assert "COMPOSE_PROFILES=python\n" in (DEPLOY / ".env").read_text()


def test_images_have_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tagged = [path for path in DEPLOY.rglob("*") if path.is_file() and re.search(rb"rnn-serving:\d", path.read_bytes())]
    found = {tag for path in tagged for tag in re.findall(r"rnn-serving:(\d[\w.]*)", path.read_text())}
    tags = {image["newTag"] for path in OVERLAYS.glob("*/kustomization.yaml") for image in images(path)}
    assert (found, tags) == ({version}, {version})


def images(path):
    (kustomization,) = manifests.documents(path)
    return [image for image in kustomization.get("images", ()) if image["name"] == "rnn-serving"]


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
    ("command", "message"),
    [
        (["hadolint", "-"], "DL3020"),
        (["yamllint", "--config-file", ROOT / ".yamllint.yaml", "-"], "duplication of key"),
    ],
)
def test_a_linter_finds_a_fault(command, message):
    """The linters of scripts/test.sh are there and work."""
    program = f"{sys.prefix}/bin/{command[0]}"
    text = "FROM scratch\nADD . /src\n" if command[0] == "hadolint" else "key: 1\nkey: 2\n"
    ended = subprocess.run([program, *command[1:]], input=text, capture_output=True, text=True)
    assert ended.returncode == 1
    assert message in ended.stdout
