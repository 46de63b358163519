"""What the flags mean: checked against each other, their files read."""

from rnn_serving.model_server import text_protos
from rnn_serving.model_server.batching_session import BatchingOptions
from rnn_serving.model_server.errors import invalid_argument, unimplemented
from rnn_serving.quiet_tensorflow import tf

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def complete(options):
    """Return the flags with `batching`, `metrics_path` and `session_config` added.

    Raises: ServingError for flags that contradict each other and for what is not served.
    """
    if options.ssl_config_file:
        raise unimplemented(f"--ssl_config_file={options.ssl_config_file}: TLS is not served")
    if not options.port and not options.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    for name in ("port", "rest_api_port"):
        if not 0 <= getattr(options, name) <= 65535:
            raise invalid_argument(f"--{name}={getattr(options, name)}; expected a port from 0 to 65535")
    options.batching = _batching(options)
    options.metrics_path = _metrics_path(options)
    options.session_config = _session_config(options)
    return options


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
    session, intra, inter = (
        getattr(options, f"tensorflow_{kind}_parallelism") for kind in ("session", "intra_op", "inter_op")
    )
    if session > 0 and intra > 0 and inter > 0:
        raise invalid_argument(
            "tensorflow_session_parallelism cannot be set together with tensorflow_intra_op_parallelism and "
            "tensorflow_inter_op_parallelism"
        )
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=max(intra or session, 0), inter_op_parallelism_threads=max(inter or session, 0)
    )


def channel_arguments(text):
    """Return gRPC options of `name=value,name=value`; a value that reads as a 32-bit number is one."""
    arguments = []
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        try:
            number = int(value)
            arguments.append((name, number if -(2**31) <= number < 2**31 else value))
        except ValueError:
            arguments.append((name, value))
    return arguments
