"""Validate a ModelServerConfig, with the C++ server's error messages (server_core.cc)."""

import logging
import os

from rnn_serving import exports
from rnn_serving.model_server import text_protos
from rnn_serving.model_server.errors import failed_precondition, invalid_argument, unimplemented
from rnn_serving.object_store import cache, store

from tensorflow_serving.config import model_server_config_pb2

log = logging.getLogger(__name__)

PLATFORMS = ("tensorflow",)
ModelType = model_server_config_pb2.ModelType


def initial_config(options):
    """Return the ModelServerConfig that the flags describe.

    Raises: ServingError.
    """
    if options.model_config_file:
        config = text_protos.read(options.model_config_file, text_protos.ModelServerConfig)
        if config.HasField("custom_model_config"):
            raise unimplemented("ModelServer does not yet support custom model config.")
        check_logging(config)
        if not config.HasField("model_config_list"):
            log.warning("%s: Taking no action for empty config.", options.model_config_file)
        return config
    if not options.model_base_path:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    config = text_protos.ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform="tensorflow"
    )
    return config


def check(config, current):
    """Raise an error unless `config` may replace `current`, both ModelServerConfigs; `check_platforms` comes later."""
    models = config.model_config_list.config
    current_models = {model.name: model for model in current.model_config_list.config}
    _check_names_and_paths(models)
    for model in models:
        if model.name in current_models:
            _check_same_platform(model, current_models[model.name])


def check_platforms(config):
    """Raise INVALID_ARGUMENT unless every model in a ModelServerConfig has a platform that this server supports."""
    for model in config.model_config_list.config:
        if model.model_type:
            log.warning(
                "Deprecated ModelServerConfig::model_type field used. Prefer ModelServerConfig::model_platform."
            )
        if _platform(model) not in PLATFORMS:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {_platform(model)}")


def check_logging(config):
    """Raise INVALID_ARGUMENT if a model asks for a log of its requests, which this server does not write."""
    if any(model.HasField("logging_config") for model in config.model_config_list.config):
        raise invalid_argument("No request-logger-creator provided.")


def check_reload_of_file(config, current):
    """Raise FAILED_PRECONDITION if a configuration file that has changed has no list of models."""
    if config != current and not config.HasField("model_config_list"):
        raise failed_precondition(
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
        )


def warn_if_nothing_served(config):
    """Log what makes a valid ModelServerConfig serve nothing."""
    models = config.model_config_list.config
    if not models:
        log.warning("The configuration lists no model: nothing is served")
    for model in models:
        policy = model.model_version_policy
        if policy.HasField("specific") and not policy.specific.versions:
            log.warning(
                "Model %s: model_version_policy { specific {} } selects no version: nothing is served", model.name
            )


def _check_names_and_paths(models):
    names = set()
    for model in models:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models:
        scheme = exports.uri_scheme(model.base_path)
        if not scheme and not os.path.isabs(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        if store.is_remote(model.base_path):
            _check_store(scheme, model.base_path)


def _check_store(scheme, uri):
    try:
        store.require_backend(uri)
    except store.StoreError as error:
        raise unimplemented(f"File system scheme '{scheme}' not implemented (file: '{uri}'): {error}") from error
    try:
        cache.require_writable()
    except store.StoreError as error:
        raise failed_precondition(str(error)) from error


def _check_same_platform(model, current_model):
    platform, current_platform = _platform(model), _platform(current_model)
    if platform != current_platform:
        raise invalid_argument(
            f"Illegal to change a model's platform. For model {model.name} platform was {current_platform} and new "
            f"platform requested is {platform}"
        )


def _platform(model):
    """Return the platform of a ModelConfig. Raises: ServingError INVALID_ARGUMENT unless it has exactly one."""
    fields = "ModelServerConfig::model_type (deprecated) {} ModelServerConfig::model_platform, model name is {}"
    if model.model_type and model.model_platform:
        raise invalid_argument(f"Illegal setting both {fields.format('and', model.name)}")
    if model.model_type and model.model_type != ModelType.TENSORFLOW:
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    if not model.model_type and not model.model_platform:
        raise invalid_argument(f"Illegal setting neither {fields.format('nor', model.name)}")
    return model.model_platform or "tensorflow"
