"""Find the versions to serve in the model directories (file_system_storage_path_source.cc)."""

import logging
import os
import re

from rnn_serving import exports
from rnn_serving.model_server.errors import ServingError, not_found
from rnn_serving.quiet_tensorflow import tf

log = logging.getLogger(__name__)

_INT64 = range(-(2**63), 2**63)
_VERSION = re.compile(r"-?[0-9]+")


def aspired_versions(config):
    """Return {model: {version: directory}} of the versions to serve for every model in a ModelServerConfig.

    Raises: ServingError NOT_FOUND at the first missing base path; then no model gets versions.
    """
    return {model.name: _select_versions(model, _find_versions(model)) for model in config.model_config_list.config}


def _find_versions(model):
    """Return {version: path} of the entries of a model's base path whose whole name is a number."""
    base_path = exports.local_path(model.base_path)
    try:
        names = _list(base_path)
    except (OSError, tf.errors.OpError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else error.strerror
        raise not_found(
            f"Could not find base path {model.base_path} for servable {model.name} with error {reason}"
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


def _list(base_path):
    """Return the sorted names in a directory, which may be in another file system of TensorFlow, such as gs://."""
    if os.path.isabs(base_path):
        return sorted(os.listdir(base_path))
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(base_path))


def _select_versions(model, found):
    """Return those of {version: path} that the model's version policy selects."""
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
    """Set the versions that a manager should serve; if a base path is missing, log it and change nothing."""
    try:
        manager.aspire(aspired_versions(config))
    except ServingError as error:
        log.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
