"""Read Kubernetes documents, and compose overlays as kustomize does; a test compares that with kubectl where it is."""

import yaml
from conftest import ROOT

OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
# The fields by which a strategic merge patch finds an item of a list; other lists are replaced.
MERGE_KEYS = {"containers": "name", "env": "name", "ports": "containerPort", "volumeMounts": "mountPath"}
MERGE_KEYS |= {"initContainers": "name", "volumes": "name"}


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
    return [container for pod in pods for container in (*pod.get("initContainers", ()), *pod["containers"])]
