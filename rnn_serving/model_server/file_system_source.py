"""Find the versions to serve in the model directories (file_system_storage_path_source.cc)."""

import logging
import os
import re

from rnn_serving.model_server.errors import ServingError, not_found

log = logging.getLogger(__name__)

_INT64 = range(-(2**63), 2**63)
_VERSION = re.compile(r"-?[0-9]+")


def aspired_versions(config, mirrors):
    """Return {model: {version: directory}} of the versions to serve for the models in a ModelServerConfig.

    Models at object stores are those of `mirrors`; one of which nothing is known yet is left out.
    Raises: ServingError NOT_FOUND at the first missing base path; then no model gets versions.
    """
    models = [(model, mirrors.local_path(model)) for model in config.model_config_list.config]
    return {model.name: _select_versions(model, _find_versions(model, path)) for model, path in models if path}


def _find_versions(model, base_path):
    """Return {version: path} of the entries of a model's local base path whose whole name is a number."""
    try:
        names = sorted(os.listdir(base_path))
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
            found[int(name)] = os.path.join(base_path, name)
    if not found:
        log.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            *(model.name, model.base_path),
        )
    return found


def _select_versions(model, found):
    """Return those of {version: path} that the model's version policy selects."""
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific":
        for number in set(policy.specific.versions) - set(found):
            log.warning(
                "Version %s of servable %s, which was requested to be served, is not on disk", number, model.name
            )
    selected = select(policy, found)
    return {number: path for number, path in found.items() if number in selected}


def select(policy, numbers):
    """Return the set of those version numbers that a ServableVersionPolicy selects."""
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return set(numbers)
    if kind == "specific":
        return set(policy.specific.versions) & set(numbers)
    return set(sorted(numbers)[-(policy.latest.num_versions or 1) :])


def poll(config, manager, mirrors):
    """Set the versions that a manager should serve; if a base path is missing, log it and change nothing."""
    try:
        manager.aspire(aspired_versions(config, mirrors))
    except ServingError as error:
        log.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
