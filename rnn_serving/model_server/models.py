"""The versions that are loaded, and finding the one that a request means."""

import logging
import os
import time

import grpc

from rnn_serving import exports, saved_model
from rnn_serving.model_server.errors import ServingError, invalid_argument, not_found
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import get_model_status_pb2

log = logging.getLogger(__name__)

State = get_model_status_pb2.ModelVersionStatus.State


class Version:
    """A loaded version: its number, its signatures, and the call."""

    def __init__(self, number, directory):
        """Load the SavedModel in `directory`.

        Raises: exports.ExportError.
        """
        self.number = number
        self.session, self.signatures, self.signature_defs = saved_model.load(directory)

    def run(self, signature, inputs, output_aliases, timeout_s=None):
        """Return {alias: array} of a signature's outputs.

        Raises: ServingError with TensorFlow's own code and message.
        """
        try:
            return signature(inputs, output_aliases)
        except tf.errors.OpError as error:
            raise ServingError.of(error) from error


class Models:
    """The models of the server by name; so far one model with its newest version."""

    def __init__(self, name, version):
        self._versions = {name: {version.number: version}}

    def lookup(self, spec):
        """Return the `Version` that a ModelSpec means, the highest one where it names none.

        Raises: ServingError; clients wait for a model by looking for "Servable" in its message.
        """
        if spec is None:
            raise invalid_argument("Missing ModelSpec")
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        versions = self._versions.get(spec.name, {})
        if not spec.HasField("version"):
            if not versions:
                raise not_found(f"Servable not found for request: Latest({spec.name})")
            return versions[max(versions)]
        if spec.version.value not in versions:
            raise not_found(f"Servable not found for request: Specific({spec.name}, {spec.version.value})")
        return versions[spec.version.value]

    def status(self, spec):
        """Return the GetModelStatusResponse for a ModelSpec: all versions, or the one it names, highest first.

        Raises: ServingError.
        """
        versions = self._versions.get(spec.name, {})
        if not versions:
            raise not_found(f"Could not find any versions of model {spec.name}")
        wanted = sorted(versions, reverse=True)
        if spec.HasField("version"):
            if spec.version.value not in versions:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
            wanted = [spec.version.value]
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in wanted:
            status = response.model_version_status.add(version=number, state=State.AVAILABLE)
            status.status.SetInParent()
        return response


def load_newest(name, base_path, poll_wait_s, retries, retry_interval_s):
    """Wait until `base_path` has a version, load the newest one, and return the `Models`.

    Raises: ServingError if the path is relative, or if the version does not load in 1 + `retries` tries.
    """
    if not os.path.isabs(base_path):
        raise invalid_argument(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")
    number, directory = _wait_for_version(base_path, poll_wait_s)
    for tries_left in reversed(range(1 + max(retries, 0))):
        try:
            return Models(name, Version(number, directory))
        except exports.ExportError as error:
            reason = ServingError.of(error)
            log.error("Loading servable: {name: %s version: %s} failed: %s", name, number, reason)
        if tries_left:
            time.sleep(max(retry_interval_s, 0))
    raise ServingError(
        grpc.StatusCode.UNKNOWN,
        f"1 servable(s) did not become available: {{{{{{name: {name} version: {number}}} due to error: {reason}}}, }}",
    )


def _wait_for_version(base_path, poll_wait_s):
    """Return the newest (version, directory) under `base_path`; log at each look that finds none, for ever."""
    while not (versions := exports.versions(base_path)):
        log.warning("No versions of servable found under base path %s", base_path)
        time.sleep(max(poll_wait_s, 0.1))
    return max(versions.items())
