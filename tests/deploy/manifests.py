"""Read the containers that deploy/ describes: by a pod, a service of compose.yaml, or the Dockerfile."""

import json
import re
from dataclasses import dataclass, field, replace

from conftest import ROOT
from kustomize import OVERLAYS, compose, documents, identity

DEPLOY = ROOT / "deploy"
OUR_IMAGE = "rnn-serving"


@dataclass(frozen=True)
class Container:
    """A container to run: its whole command, and where files, ports, probes and limits of time are."""

    name: str
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


def overlay(name, deployment):
    """Return the `Container` of a Deployment in one of the overlays."""
    return deployed(compose(OVERLAYS / name), deployment)


def deployed(found, name):
    """Return the `Container` of a Deployment in the documents `found`."""
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
    return Container("image", command, image["ENV"], {"http": 5000}, mounts, {"startup": image["HEALTHCHECK"][1:]})


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
