"""Read what deploy/ describes: overlays as kustomize composes them, and containers by pod, service or Dockerfile."""

import json
import re
from dataclasses import dataclass, field, replace

import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
OVERLAYS = DEPLOY / "kubernetes" / "overlays"
OUR_IMAGE = "rnn-serving"
# The fields by which a strategic merge patch finds an item of a list; other lists are replaced.
MERGE_KEYS = {"containers": "name", "env": "name", "ports": "containerPort", "volumeMounts": "mountPath"}
MERGE_KEYS |= {"initContainers": "name", "volumes": "name"}


@dataclass(frozen=True)
class Container:
    """A container to run: its whole command, and where files, ports, probes and limits of time are."""

    name: str
    image: str
    command: list
    environment: dict = field(default_factory=dict)
    # {name: number}
    ports: dict = field(default_factory=dict)
    # {path in the container: what is there}: "models", "empty", "secret", {file name: text} or a path on the host
    mounts: dict = field(default_factory=dict)
    # {"startup", "readiness", "liveness": a probe of Kubernetes or, for all of them, the command of a health check}
    probes: dict = field(default_factory=dict)
    pre_stop: dict = field(default_factory=dict)
    grace_s: float = 10

    def with_argument(self, argument):
        """Return this container with one argument more."""
        return replace(self, command=[*self.command, argument])


def documents(path):
    """Return the YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def compose(directory):
    """Return the documents of a kustomization: its resources, with its patches and images."""
    (kustomization,) = documents(directory / "kustomization.yaml")
    found = []
    for resource in kustomization["resources"]:
        path = directory / resource
        found += compose(path) if path.is_dir() else documents(path)
    for patch in kustomization.get("patches", ()):
        (change,) = documents(directory / patch["path"])
        index = [identity(document) for document in found].index(identity(change))
        found[index] = merge(found[index], change)
    for image in kustomization.get("images", ()):
        for container in containers_of(found):
            if container.get("image") == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def identity(document):
    """Return (kind, name)."""
    return document["kind"], document["metadata"]["name"]


def merge(base, change, key=None):
    """Return `base` with a strategic merge patch."""
    if isinstance(base, dict) and isinstance(change, dict):
        common = {name: merge(base[name], value, name) for name, value in change.items() if name in base}
        return base | change | common
    if isinstance(base, list) and key in MERGE_KEYS:
        by_key = {item[MERGE_KEYS[key]]: item for item in base}
        for item in change:
            name = item[MERGE_KEYS[key]]
            by_key[name] = merge(by_key.get(name, {}), item)
        return list(by_key.values())
    return change


def containers_of(found):
    """Return the containers of all Deployments, as they are in the documents."""
    pods = [document["spec"]["template"]["spec"] for document in found if document["kind"] == "Deployment"]
    return [container for pod in pods for container in pod["containers"]]


def deployed(found, name):
    """Return the `Container` of the Deployment with that name."""
    (deployment,) = (document for document in found if identity(document) == ("Deployment", name))
    return of_pod(deployment["spec"]["template"]["spec"], found)


def of_pod(pod, found):
    """Return the `Container` of a pod that has one; `found` are the documents with its ConfigMaps."""
    (container,) = pod["containers"]
    texts = {document["metadata"]["name"]: document["data"] for document in found if document["kind"] == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: _content(volumes[mount["name"]], texts) for mount in container["volumeMounts"]}
    image = image_settings() if container["image"].startswith(f"{OUR_IMAGE}:") else {}
    return Container(
        name=container["name"],
        image=container["image"],
        command=container.get("command", image.get("ENTRYPOINT")) + container["args"],
        environment=image.get("ENV", {}) | {entry["name"]: entry["value"] for entry in container.get("env", ())},
        ports={port.get("name"): port["containerPort"] for port in container["ports"]},
        mounts=mounts,
        probes={kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")},
        pre_stop=container["lifecycle"]["preStop"],
        grace_s=pod["terminationGracePeriodSeconds"],
    )


def _content(volume, texts):
    kinds = {"persistentVolumeClaim": "models", "secret": "secret", "emptyDir": "empty"}
    (kind,) = set(volume) - {"name"}
    return texts[volume["configMap"]["name"]] if kind == "configMap" else kinds[kind]


def kserve():
    """Return the `Container` that KServe makes of the ServingRuntime for the InferenceService."""
    runtime, config = documents(DEPLOY / "kserve" / "serving-runtime.yaml")
    (service,) = documents(DEPLOY / "kserve" / "inference-service.yaml")
    text = json.dumps(runtime["spec"]).replace("{{.Name}}", service["metadata"]["name"])
    container = of_pod(json.loads(text) | service["spec"]["predictor"], [config])
    return replace(container, mounts=container.mounts | {"/mnt/models": "models/mnist"})


def compose_file():
    """Return the content of compose.yaml."""
    return documents(DEPLOY / "compose.yaml")[0]


def service(name):
    """Return the `Container` of a service in compose.yaml."""
    found = compose_file()["services"][name]
    image = image_settings() if found["image"].startswith(f"{OUR_IMAGE}:") else {}
    check = found.get("healthcheck", {}).get("test", image.get("HEALTHCHECK"))
    binds = [volume for volume in found.get("volumes", ()) if isinstance(volume, dict)]
    return Container(
        name=name,
        image=found["image"],
        command=found.get("entrypoint", image.get("ENTRYPOINT", [])) + found["command"],
        environment=image.get("ENV", {}) | found.get("environment", {}),
        ports={port: int(port.rpartition(":")[2]) for port in found["ports"]},
        mounts=dict.fromkeys(found["tmpfs"], "empty") | {bind["target"]: _source(bind) for bind in binds},
        probes=dict.fromkeys(("startup", "readiness"), check[1:]),
        grace_s=float(found.get("stop_grace_period", "10s").removesuffix("s")),
    )


def _source(bind):
    source = (DEPLOY / bind["source"]).resolve()
    return "models" if source == ROOT / "exports" else source


def default_container():
    """Return the `Container` of the image without a command."""
    image = image_settings()
    command = image["ENTRYPOINT"] + image["CMD"]
    mounts = {"/models": "models", "/tmp": "empty"}
    return Container(
        "image", OUR_IMAGE, command, image["ENV"], {"http": 5000}, mounts, {"startup": image["HEALTHCHECK"][1:]}
    )


def image_settings():
    """Return ENTRYPOINT, CMD and HEALTHCHECK of the Dockerfile as lists, and ENV without the paths of Python."""
    text = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())
    lists = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.MULTILINE)}
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE)
    (variables,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    pairs = dict(pair.split("=", 1) for pair in variables.split())
    # Here, Python and the project are those that run the tests.
    del pairs["PATH"], pairs["PYTHONPATH"]
    return lists | {"HEALTHCHECK": ["CMD", *json.loads(check)], "ENV": pairs}
