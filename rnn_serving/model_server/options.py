"""Validate the flags together and read the files they name."""

import logging

from rnn_serving.model_server import platform_config, server_credentials, text_protos
from rnn_serving.model_server.batching_options import BatchingOptions
from rnn_serving.model_server.errors import invalid_argument, unimplemented

log = logging.getLogger(__name__)

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def complete(options):
    """Add `batching`, `metrics_path`, `session_config` and `tls` to the flags; return them.

    Raises: ServingError for flags that contradict each other or ask for a feature that is not supported.
    """
    if options.use_alts_credentials:
        raise unimplemented("--use_alts_credentials: ALTS is not supported")
    if not options.port and not options.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    for name in ("port", "rest_api_port"):
        if not 0 <= getattr(options, name) <= 65535:
            raise invalid_argument(f"--{name}={getattr(options, name)}; expected a port from 0 to 65535")
    for flag in options.flags_without_effect:
        log.info("--%s: %s", flag.name, flag.help)
    options.metrics_path = _metrics_path(options)
    options.tls = server_credentials.read(options.ssl_config_file) if options.ssl_config_file else None
    if options.platform_config_file:
        _use_platform_config(options)
    else:
        options.batching = _batching(options)
        options.session_config = _session_config(options)
    return options


def _use_platform_config(options):
    """Take the settings of --platform_config_file instead of those of the flags."""
    config = platform_config.read(options.platform_config_file)
    batching = config.batching_parameters if config.HasField("batching_parameters") else None
    options.batching = batching and BatchingOptions.of(batching)
    # A message of another descriptor pool.
    options.session_config = text_protos.SessionConfig.FromString(config.session_config.SerializeToString())
    if config.saved_model_tags:
        options.saved_model_tags = ",".join(config.saved_model_tags)
    options.enable_model_warmup = config.enable_model_warmup
    options.num_request_iterations_for_warmup = config.model_warmup_options.num_request_iterations.value
    options.prefer_tflite_model = config.prefer_tflite_model


def _batching(options):
    if options.batching_parameters_file and not options.enable_batching:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if not options.enable_batching:
        return None
    parameters = text_protos.BatchingParameters()
    if options.batching_parameters_file:
        parameters = text_protos.read(options.batching_parameters_file, text_protos.BatchingParameters)
    return BatchingOptions.of(parameters, options.enable_per_model_batching_parameters)


def _metrics_path(options):
    if not options.monitoring_config_file:
        return None
    prometheus = text_protos.read(options.monitoring_config_file, text_protos.MonitoringConfig).prometheus_config
    return (prometheus.path or DEFAULT_METRICS_PATH) if prometheus.enable else None


def _session_config(options):
    """Return the ConfigProto of --tensorflow_session_config_file, with what other flags set."""
    session, intra, inter = (
        getattr(options, f"tensorflow_{kind}_parallelism") for kind in ("session", "intra_op", "inter_op")
    )
    if session > 0 and intra > 0 and inter > 0:
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    config = text_protos.SessionConfig()
    if options.tensorflow_session_config_file:
        config = text_protos.read(options.tensorflow_session_config_file, text_protos.SessionConfig)
    if intra <= 0 and inter <= 0:
        intra = inter = session
    if intra > 0:
        config.intra_op_parallelism_threads = intra
    if inter > 0:
        config.inter_op_parallelism_threads = inter
    if options.per_process_gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    return config


def channel_arguments(text):
    """Return the gRPC options in `name=value,name=value`; a value that parses as a 32-bit integer becomes one."""
    arguments = []
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        try:
            number = int(value)
            arguments.append((name, number if -(2**31) <= number < 2**31 else value))
        except ValueError:
            arguments.append((name, value))
    return arguments
