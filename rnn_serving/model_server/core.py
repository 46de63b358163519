"""The models of a server: its configuration, its labels, and the version that a request names."""

import logging
import threading

import grpc

from rnn_serving.model_server import file_system_source, model_config, text_protos
from rnn_serving.model_server.errors import ServingError, failed_precondition, invalid_argument, not_found
from rnn_serving.model_server.manager import Manager
from rnn_serving.model_server.store_mirrors import StoreMirrors

from tensorflow_serving.apis import get_model_status_pb2

log = logging.getLogger(__name__)


class ServerCore:
    """The state that gRPC and REST share; `options` are the server's flags."""

    def __init__(self, options):
        self.options = options
        self._manager = Manager(options)
        self._mirrors = StoreMirrors(options.file_system_poll_wait_seconds, self._poll_versions)
        self._config = text_protos.ModelServerConfig()
        self._labels = {}
        self._awaited = set()  # models that no reload has seen available yet
        self._reloading, self._stopping = threading.Lock(), threading.Event()
        self._version_poller = self._poller(options.file_system_poll_wait_seconds, self._poll_versions)
        self._config_poller = self._poller(options.model_config_file_poll_wait_seconds, self._poll_config_file)

    def start(self):
        """Load the configured models and wait until each has an available version.

        Raises: ServingError if the configuration is wrong or a model does not load.
        """
        config = model_config.initial_config(self.options)
        self._manager.start()
        with self._reloading:
            self._apply(config)
        self._version_poller.start()
        self._wait("servable")
        if self.options.model_config_file:
            self._config_poller.start()

    def stop_waiting(self):
        """Let `start` return although models are not available yet."""
        self._stopping.set()

    def stop(self):
        """Stop polling for versions and free the models."""
        self._stopping.set()
        self._mirrors.stop()
        self._manager.stop()

    def lookup(self, spec):
        """Return the `Servable` that a ModelSpec names, to be used in a `with`.

        Raises: ServingError; clients that wait for a model look for "Servable" in its message.
        """
        if spec is None:
            raise invalid_argument("Missing ModelSpec")
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            labels = self._labels.get(spec.name, {})
            if spec.version_label not in labels:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return self._manager.acquire(spec.name, labels[spec.version_label])
        return self._manager.acquire(spec.name, spec.version.value if spec.HasField("version") else None)

    def is_available(self, name):
        """Return whether a version of a model can answer requests."""
        return self._manager.is_available(name)

    def status(self, spec):
        """Return the GetModelStatusResponse for a ModelSpec: every version since the server started, or the one named.

        Raises: ServingError.
        """
        if spec is None:
            raise invalid_argument("Missing ModelSpec")
        versions = self._manager.versions(spec.name)
        if not versions:
            raise not_found(f"Could not find any versions of model {spec.name}")
        if spec.HasField("version"):
            versions = [servable for servable in versions if servable.number == spec.version.value]
            if not versions:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for servable in versions:
            status = response.model_version_status.add(version=servable.number, state=servable.state)
            status.status.SetInParent()
            if servable.error:
                status.status.error_code = servable.error.code.value[0]
                status.status.error_message = servable.error.message
        return response

    def reload(self, config, keep_waiting=lambda: True):
        """Replace the configuration by a ModelServerConfig; wait until each new model is available or has failed.

        A model stays new until it has been available: if its first reload ended before, the next one waits as well.
        The wait ends when `keep_waiting()` returns false.
        Raises: ServingError. On error the old configuration is kept, except if a new model fails to load or request
        logging is configured.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        with self._reloading:
            self._apply(config)
        self._wait("model", keep_waiting)
        if self._awaited and self._stopping.is_set():
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "The server stops; not every model became available")
        model_config.check_logging(config)

    def _wait(self, kind, keep_waiting=lambda: True):
        """Wait until every new model is available or has failed, or the server stops.

        Raises: ServingError if models failed; `kind` is what the message calls them.
        """
        names = [name for name in self._names() if name in self._awaited]
        failed = self._manager.wait_until_settled(names, lambda: keep_waiting() and not self._stopping.is_set())
        self._awaited.difference_update(filter(self._manager.is_available, names))
        if failed:
            raise _unavailable(kind, failed)

    def _names(self):
        return [model.name for model in self._config.model_config_list.config]

    def _apply(self, config):
        """Validate a configuration, then switch to it. As in C++, a platform is refused after the labels changed."""
        model_config.check(config, self._config)
        self._labels = self._check_labels(config)
        model_config.check_platforms(config)
        if config != self._config:
            model_config.warn_if_nothing_served(config)
        before = set(self._names())
        self._config = config
        names = set(self._names())
        self._awaited = (self._awaited & names) | (names - before)
        self._manager.aspire({name: {} for name in before - names})
        self._mirrors.keep(config)
        # Poll now, so that a reload does not wait for the next interval; `< 0` means never to poll.
        if self.options.file_system_poll_wait_seconds >= 0:
            self._poll_file_system()

    def _check_labels(self, config):
        """Return {model: {label: version}} of a configuration.

        Raises: ServingError FAILED_PRECONDITION for a label of a version that is not available. A flag allows that for
        a label that is new, or stays where it is.
        """
        labels = {}
        for model in config.model_config_list.config:
            for label, number in model.version_labels.items():
                stays = self._labels.get(model.name, {}).get(label, number) == number
                may_wait = stays and self.options.allow_version_labels_for_unavailable_models
                if not may_wait and not self._manager.is_available(model.name, number):
                    raise failed_precondition(
                        f"Request to assign label to version {number} of model {model.name}, which is not currently "
                        "available for inference"
                    )
                labels.setdefault(model.name, {})[label] = number
        return labels

    def _poller(self, interval_s, poll):
        """Return a thread, not yet started, that calls `poll` at an interval until the server stops; 0 disables it."""

        def repeat():
            while interval_s > 0 and not self._stopping.wait(interval_s):
                poll()

        return threading.Thread(target=repeat, daemon=True)

    def _poll_versions(self):
        # Not during a reload: a poll of the old configuration would bring back models that the new one drops.
        with self._reloading:
            self._poll_file_system()

    def _poll_file_system(self):
        file_system_source.poll(self._config, self._manager, self._mirrors)

    def _poll_config_file(self):
        """Apply the configuration file again, without waiting for models; log an error in it."""
        try:
            config = text_protos.read(self.options.model_config_file, text_protos.ModelServerConfig)
            model_config.check_reload_of_file(config, self._config)
            with self._reloading:
                self._apply(config)
            model_config.check_logging(config)
        except ServingError as error:
            log.error("Could not apply %s: %s", self.options.model_config_file, error)


def _unavailable(kind, failed):
    """Return the error for servables that did not load."""
    reasons = "".join(f"{{{servable} due to error: {servable.error}}}, " for servable in failed)
    return ServingError(grpc.StatusCode.UNKNOWN, f"{len(failed)} {kind}(s) did not become available: {{{reasons}}}")
