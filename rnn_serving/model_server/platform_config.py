"""Read --platform_config_file, which replaces the flags that describe how a model is loaded."""

import logging

from rnn_serving.model_server import text_protos
from rnn_serving.model_server.errors import invalid_argument, unimplemented

log = logging.getLogger(__name__)

# These change neither an answer nor what is loaded.
_WITHOUT_EFFECT = {
    "session_run_load_threadpool_index",
    "experimental_transient_ram_bytes_during_load",
    "enable_session_metadata",
    "remove_unused_fields_from_bundle_metagraph",
    "num_tflite_interpreters_per_pool",
    "num_tflite_pools",
    "wrap_session_with_no_threading_params",
}
_NOT_SUPPORTED = {"session_target", "experimental_fixed_input_tensors"}


def read(path):
    """Return the SessionBundleConfig for the platform "tensorflow" in a text file with a PlatformConfigMap.

    Raises: ServingError for a file that does not parse, another configuration, or a field that is not supported.
    """
    platforms = text_protos.read(path, text_protos.PlatformConfigMap).platform_configs
    if "tensorflow" not in platforms:
        raise invalid_argument(f"{path}: no platform_configs with the key 'tensorflow'")
    packed = platforms["tensorflow"].source_adapter_config
    config = text_protos.SavedModelBundleSourceAdapterConfig()
    if not packed.Is(config.DESCRIPTOR):
        raise invalid_argument(
            f"{path}: source_adapter_config is '{packed.type_url}'; expected {config.DESCRIPTOR.full_name}"
        )
    packed.Unpack(config)
    for field, _ in config.legacy_config.ListFields():
        if field.name in _NOT_SUPPORTED:
            raise unimplemented(f"{path}: {field.name} is not supported")
        if field.name in _WITHOUT_EFFECT:
            log.info("%s: %s has no effect", path, field.name)
    return config.legacy_config
