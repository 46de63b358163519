"""From directories to the versions there should be (file_system_storage_path_source.cc)."""

import logging
import os
import re

from rnn_serving.model_server.errors import ServingError, not_found

log = logging.getLogger(__name__)

_INT64 = range(-(2**63), 2**63)
_VERSION = re.compile(r"-?[0-9]+")


def aspired_versions(config):
    """Return {model: {version: directory}} of every model in a ModelServerConfig.

    Raises: ServingError NOT_FOUND at the first base path that is missing: then no model gets versions.
    """
    return {model.name: _choose(model, _children(model)) for model in config.model_config_list.config}


def _children(model):
    """Return {version: path} of the children of a model's base path whose whole name is a number."""
    try:
        names = sorted(os.listdir(model.base_path))
    except OSError as error:
        raise not_found(
            f"Could not find base path {model.base_path} for servable {model.name} with error {error.strerror}"
        ) from error
    found = {}
    for name in names:
        if _VERSION.fullmatch(name) and int(name) in _INT64:
            if int(name) in found:
                log.warning(
                    "Duplicate version directories detected. Version %s of %s: taking %s", int(name), model.name, name
                )
            found[int(name)] = os.path.join(model.base_path, name)
    if not found:
        log.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            *(model.name, model.base_path),
        )
    return found


def _choose(model, found):
    """Return those of {version: path} that the model's version policy wants."""
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return found
    if kind == "specific":
        for number in set(policy.specific.versions) - set(found):
            log.warning(
                "Version %s of servable %s, which was requested to be served, is not on disk", number, model.name
            )
        return {number: path for number, path in found.items() if number in policy.specific.versions}
    count = policy.latest.num_versions or 1
    return {number: found[number] for number in sorted(found)[-count:]}


def poll(config, manager):
    """Tell a manager which versions there should be; log why not, and leave all as it is, if a base path is missing."""
    try:
        manager.aspire(aspired_versions(config))
    except ServingError as error:
        log.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
