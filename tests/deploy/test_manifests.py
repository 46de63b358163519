"""The manifests of Kubernetes and KServe are valid, and their parts fit together."""

import json
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from kustomize import OVERLAYS, compose, containers_of, documents, identity, merge

# The newest version that the validator knows, and one two minor versions older.
KUBERNETES_VERSIONS = ("1.37", "1.35")
COMPOSED = {path.name: compose(path) for path in sorted(OVERLAYS.iterdir())}
FILES = [ROOT / "deploy" / "kubernetes" / "publisher.yaml", *sorted((ROOT / "deploy" / "kserve").glob("*.yaml"))]
DOCUMENTS = COMPOSED | {path.stem: documents(path) for path in FILES}
# Custom resources have no schemas here: the fields of their `spec` that are used.
CUSTOM_RESOURCES = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): {
        *("annotations", "containers", "protocolVersions", "supportedModelFormats", "volumes"),
    },
    ("serving.kserve.io/v1beta1", "InferenceService"): {"predictor"},
}
# The fields of a predictor that a pod does not have.
PREDICTOR = {"maxReplicas", "minReplicas", "model", "scaleMetric", "scaleTarget"}


def each_document():
    return [
        pytest.param(document, id=f"{name}-{'-'.join(identity(document))}")
        for name, found in DOCUMENTS.items()
        for document in found
    ]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("document", each_document())
def test_a_document_is_valid(document, version):
    used = CUSTOM_RESOURCES.get((document["apiVersion"], document["kind"]))
    if used:
        assert set(document["spec"]) == used
    else:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_have_is_found():
    (document,) = DOCUMENTS["publisher"]
    wrong = merge(document, {"spec": {"readOnlyRootFilesystem": True}})
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFilesystem"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_the_model_of_kserve_fits_its_runtime():
    runtime, _ = DOCUMENTS["serving-runtime"]
    (service,) = DOCUMENTS["inference-service"]
    model = service["spec"]["predictor"]["model"]
    assert set(model) == {"modelFormat", "protocolVersion", "runtime", "storageUri"}
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert {**model["modelFormat"], "autoSelect": False} in runtime["spec"]["supportedModelFormats"]
    (claim,) = (document for document in COMPOSED["python"] if document["kind"] == "PersistentVolumeClaim")
    assert model["storageUri"].split("/")[2] == claim["metadata"]["name"]
    # KServe adds the model to the container of this name.
    assert [container["name"] for container in runtime["spec"]["containers"]] == ["kserve-container"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_what_kserve_takes_from_kubernetes_makes_a_valid_pod(version):
    runtime, _ = DOCUMENTS["serving-runtime"]
    (service,) = DOCUMENTS["inference-service"]
    spec = {name: runtime["spec"][name] for name in ("containers", "volumes")}
    spec |= {name: value for name, value in service["spec"]["predictor"].items() if name not in PREDICTOR}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mnist"}, "spec": spec}
    kubernetes_validate.validate(pod, version, strict=True)


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


def each_pod():
    """Return every pod that deploy/ describes for Kubernetes."""
    found = [document for documents in DOCUMENTS.values() for document in documents]
    specs = [document["spec"] for document in found if document["kind"] in ("Deployment", "Pod", "ServingRuntime")]
    return [spec["template"]["spec"] if "template" in spec else spec for spec in specs]


@pytest.mark.parametrize("pod", each_pod(), ids=lambda pod: pod["containers"][0]["name"])
def test_a_pod_may_do_no_more_than_the_restricted_standard_allows(pod):
    for container in pod["containers"]:
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert set(container["resources"]) == {"requests", "limits"}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_selects_pods_finds_them(name):
    pods = [document["spec"]["template"] for document in COMPOSED[name] if document["kind"] == "Deployment"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    selectors = {"Deployment": "selector", "Service": "selector", "PodDisruptionBudget": "selector"}
    selectors |= {"NetworkPolicy": "podSelector"}
    found = [document for document in COMPOSED[name] if document["kind"] in selectors]
    assert {document["kind"] for document in found} == set(selectors)
    for document in found:
        selector = document["spec"][selectors[document["kind"]]]
        assert selector.get("matchLabels", selector) in labels


@pytest.mark.parametrize("name", COMPOSED)
def test_names_of_ports_and_deployments_are_those_of_the_pods(name):
    found = COMPOSED[name]
    ports = {port["name"] for container in containers_of(found) for port in container.get("ports", ())}
    deployments = {identity(document) for document in found if document["kind"] == "Deployment"}
    scaled = [document["spec"]["scaleTargetRef"] for document in found if document["kind"] == "HorizontalPodAutoscaler"]
    assert {(target["kind"], target["name"]) for target in scaled} == deployments
    services = [document["spec"]["ports"] for document in found if document["kind"] == "Service"]
    assert {port["targetPort"] for service in services for port in service} == ports
    policies = [document["spec"] for document in found if document["kind"] == "NetworkPolicy"]
    rules = [rule for policy in policies for rule in policy["ingress"]]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports
