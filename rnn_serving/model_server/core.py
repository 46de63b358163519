"""The models of a server: its configuration, its labels, and finding the version that a request means."""

import logging
import os
import threading

import grpc

from rnn_serving.model_server import file_system_source, text_protos
from rnn_serving.model_server.errors import ServingError, failed_precondition, invalid_argument, not_found
from rnn_serving.model_server.manager import Manager

from tensorflow_serving.apis import get_model_status_pb2

log = logging.getLogger(__name__)

PLATFORMS = ("tensorflow",)


class ServerCore:
    """What the gRPC and the REST side share; `options` are the server's flags."""

    def __init__(self, options):
        self.options = options
        self._manager = Manager(options)
        self._config = text_protos.ModelServerConfig()
        self._labels = {}
        self._reloading, self._stopping = threading.Lock(), threading.Event()
        self._pollers = [
            threading.Thread(target=self._repeat, args=arguments, daemon=True)
            for arguments in (
                (options.file_system_poll_wait_seconds, self._look_for_versions),
                (options.model_config_file_poll_wait_seconds, self._poll_config_file),
            )
        ]

    def start(self):
        """Load the configured models and wait until each has an available version.

        Raises: ServingError if the configuration is wrong or a model does not load.
        """
        config = _initial_config(self.options)
        self._manager.start()
        with self._reloading:
            self._apply(config)
        self._pollers[0].start()
        failed = self._manager.wait_until_settled(self._names(), lambda: not self._stopping.is_set())
        if failed:
            raise _unavailable("servable", failed)
        if self.options.model_config_file:
            self._pollers[1].start()

    def give_up(self):
        """End the wait of `start`."""
        self._stopping.set()

    def stop(self):
        """Stop looking for versions and free the models."""
        self._stopping.set()
        self._manager.stop()

    def lookup(self, spec):
        """Return the `Servable` that a ModelSpec means, to be used in a `with`.

        Raises: ServingError; clients wait for a model by looking for "Servable" in its message.
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

    def status(self, spec):
        """Return the GetModelStatusResponse for a ModelSpec: all versions since the start, or the one it names.

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

    def reload(self, config, go_on=lambda: True):
        """Replace the configuration by a ModelServerConfig, and wait until each new model has a version or failed.

        `go_on()` is asked while waiting. Raises: ServingError; then the old configuration stays, unless it is a
        model that failed.
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        with self._reloading:
            before = set(self._names())
            self._apply(config)
            new = [name for name in self._names() if name not in before]
        failed = self._manager.wait_until_settled(new, go_on)
        if failed:
            raise _unavailable("model", failed)

    def _names(self):
        return [model.name for model in self._config.model_config_list.config]

    def _apply(self, config):
        """Check a configuration, then make it the one in force."""
        self._check(config)
        labels = self._checked_labels(config)
        before = self._names()
        self._config, self._labels = config, labels
        self._manager.aspire({name: {} for name in before if name not in self._names()})
        # At once, so that a reload need not wait for the next look; `< 0` means never to look.
        if self.options.file_system_poll_wait_seconds >= 0:
            self._poll_file_system()

    def _check(self, config):
        names, old = set(), {model.name: model for model in self._config.model_config_list.config}
        for model in config.model_config_list.config:
            if model.name in names:
                raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
            names.add(model.name)
            if not os.path.isabs(model.base_path) and "://" not in model.base_path:
                raise invalid_argument(
                    f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
                )
        for model in config.model_config_list.config:
            platform = _platform(model)
            if model.name in old and _platform(old[model.name]) != platform:
                raise invalid_argument(
                    f"Illegal to change a model's platform. For model {model.name} platform was "
                    f"{_platform(old[model.name])} and new platform requested is {platform}"
                )
        for model in config.model_config_list.config:
            if _platform(model) not in PLATFORMS:
                raise invalid_argument(f"Model {model.name} requests unsupported platform {_platform(model)}")

    def _checked_labels(self, config):
        """Return {model: {label: version}} of a configuration.

        Raises: ServingError FAILED_PRECONDITION for a label of a version that is not available.
        """
        labels = {}
        for model in config.model_config_list.config:
            for label, number in model.version_labels.items():
                is_new = label not in self._labels.get(model.name, {})
                may_wait = is_new and self.options.allow_version_labels_for_unavailable_models
                if not may_wait and not self._manager.is_available(model.name, number):
                    raise failed_precondition(
                        f"Request to assign label to version {number} of model {model.name}, which is not currently "
                        "available for inference"
                    )
                labels.setdefault(model.name, {})[label] = number
        return labels

    def _repeat(self, interval_s, look):
        while interval_s > 0 and not self._stopping.wait(interval_s):
            look()

    def _look_for_versions(self):
        # Not during a reload: what the old configuration wants would bring models back that the new one drops.
        with self._reloading:
            self._poll_file_system()

    def _poll_file_system(self):
        file_system_source.poll(self._config, self._manager)

    def _poll_config_file(self):
        """Apply the configuration file anew; what is wrong with it is logged, and the old one stays."""
        try:
            self.reload(text_protos.read(self.options.model_config_file, text_protos.ModelServerConfig))
        except ServingError as error:
            log.error("Could not apply %s: %s", self.options.model_config_file, error)


def _initial_config(options):
    """Return the ModelServerConfig that the flags ask for.

    Raises: ServingError.
    """
    if options.model_config_file:
        return text_protos.read(options.model_config_file, text_protos.ModelServerConfig)
    if not options.model_base_path:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    config = text_protos.ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform="tensorflow"
    )
    return config


def _platform(model):
    if not model.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return model.model_platform


def _unavailable(what, failed):
    """Return the error for servables that did not load."""
    reasons = "".join(f"{{{servable} due to error: {servable.error}}}, " for servable in failed)
    return ServingError(grpc.StatusCode.UNKNOWN, f"{len(failed)} {what}(s) did not become available: {{{reasons}}}")
