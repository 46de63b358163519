"""The command line of `tensorflow_model_server`: only `--name=value`, and `--name` for booleans."""

import re
from dataclasses import dataclass
from types import SimpleNamespace

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class FlagError(Exception):
    """A command line that cannot be parsed."""


@dataclass(frozen=True)
class Flag:
    """One flag: its name, its default, which also sets its type, and its help text.

    A flag without effect is accepted, so that a command line of tensorflow_model_server starts this server too.
    """

    name: str
    default: int | str | bool | float
    help: str
    has_effect: bool = True

    def parse(self, text):
        """Return the value in `text`; None is for a boolean flag without a value.

        Raises: FlagError.
        """
        kind = type(self.default)
        try:
            if kind is bool:
                return True if text is None else _BOOLEANS[text.lower()]
            if kind is int and not _INTEGER.fullmatch(text):
                raise ValueError(text)
            return kind(text)
        except (KeyError, ValueError, TypeError) as error:
            raise FlagError(f"--{self.name}={text}: expected a value of type {kind.__name__}") from error


def _without_effect(name, default, reason):
    return Flag(name, default, f"no effect: {reason}", has_effect=False)


FLAGS = (
    Flag("host", "127.0.0.1", "address to listen on; tensorflow_model_server has no such flag and listens on all"),
    Flag("port", 8500, "TCP port for gRPC; 0 for none, which needs --grpc_socket_path"),
    Flag("grpc_socket_path", "", "path of a UNIX socket to listen on as well"),
    Flag("rest_api_port", 0, "TCP port for the REST API; 0 for none"),
    Flag("rest_api_num_threads", 0, "threads that handle REST requests; 0 for four times the number of CPUs"),
    Flag("rest_api_timeout_in_ms", 30_000, "time limit of the model call, milliseconds; 0 or less for none"),
    Flag("rest_api_enable_cors_support", False, "add Access-Control-* headers to REST answers"),
    Flag("model_name", "default", "name of the model (ignored with --model_config_file)"),
    Flag("model_base_path", "", "absolute path or URI of the version directories (ignored with --model_config_file)"),
    Flag("model_config_file", "", "text file with a ModelServerConfig: models, version policies, labels"),
    Flag("model_config_file_poll_wait_seconds", 0, "seconds between reads of --model_config_file; 0 to read it once"),
    Flag("file_system_poll_wait_seconds", 1, "seconds between polls for versions; 0 to poll once, negative to disable"),
    Flag("max_num_load_retries", 5, "retries when a version fails to load"),
    Flag("load_retry_interval_micros", 60_000_000, "microseconds between load attempts; negative for no wait"),
    _without_effect("num_load_threads", 0, "every model loads in a thread of its own"),
    _without_effect("num_unload_threads", 0, "every model unloads in a thread of its own"),
    _without_effect("flush_filesystem_caches", True, "file system caches are left to the operating system"),
    Flag("enable_batching", False, "batch concurrent requests into one model call"),
    Flag("batching_parameters_file", "", "text file with BatchingParameters; needs --enable_batching"),
    Flag("enable_per_model_batching_parameters", False, "read the parameters from a version's batching_params.pbtxt"),
    Flag("allow_version_labels_for_unavailable_models", False, "let new labels name versions that are not loaded"),
    Flag("enable_model_warmup", True, "run assets.extra/tf_serving_warmup_requests before a version serves"),
    Flag("num_request_iterations_for_warmup", 0, "times each warm-up request runs; 0 for once"),
    Flag("saved_model_tags", "serve", "comma-separated tags of the graph to load"),
    Flag("enable_signature_method_name_check", False, "check the method name of a signature before running it"),
    Flag("enable_serialization_as_tensor_content", False, "answer Predict with tensor_content instead of typed fields"),
    _without_effect("remove_unused_fields_from_bundle_metagraph", True, "a loaded graph is not kept as a message"),
    Flag("prefer_tflite_model", False, "refuse a version that has a model.tflite: TFLite is not supported"),
    _without_effect("num_tflite_pools", 0, "TFLite is not supported"),
    _without_effect("num_tflite_interpreters_per_pool", 0, "TFLite is not supported"),
    Flag("grpc_channel_arguments", "", "options of the gRPC server, comma-separated name=value"),
    Flag("grpc_max_threads", 0, "threads that handle gRPC calls; 0 for four times the number of CPUs"),
    Flag("enable_grpc_healthcheck_service", False, "serve the health service grpc.health.v1.Health"),
    Flag("tensorflow_session_parallelism", 0, "threads within ops and between ops; 0 for one per CPU"),
    Flag("tensorflow_intra_op_parallelism", 0, "threads within an op; 0 for one per CPU"),
    Flag("tensorflow_inter_op_parallelism", 0, "threads between ops; 0 for one per CPU"),
    Flag("tensorflow_session_config_file", "", "text file with a ConfigProto; other session flags override its values"),
    Flag("platform_config_file", "", "text file with a PlatformConfigMap, used instead of the flags for loading"),
    Flag("per_process_gpu_memory_fraction", 0.0, "part of the GPU memory to use, 0 to 1; 0 for TensorFlow's choice"),
    _without_effect("mixed_precision", "", "models run in the precision in which they were exported"),
    _without_effect("xla_cpu_compilation_enabled", False, "XLA is available to every model that uses it"),
    _without_effect("xla_gpu_compilation_enabled", False, "XLA is available to every model that uses it"),
    _without_effect("thread_pool_factory_config_file", "", "TensorFlow's own thread pools are used"),
    _without_effect("skip_initialize_tpu", False, "TPUs are not supported"),
    Flag("monitoring_config_file", "", "text file with a MonitoringConfig: the path of the Prometheus metrics"),
    Flag("ssl_config_file", "", "text file with an SSLConfig: key, certificate and CA of the gRPC port, for TLS"),
    Flag("use_alts_credentials", False, "refused: ALTS is not supported"),
    _without_effect("enable_profiler", True, "there is no profiler service"),
    Flag("version", False, "print the version and exit"),
)


def parse(argv):
    """Return the flags in `argv` as a namespace, with defaults for the others, and `flags_without_effect`, a list.

    Raises: FlagError for the first argument that is unknown or has a value of the wrong type.
    """
    flags = {flag.name: flag for flag in FLAGS}
    values = {flag.name: flag.default for flag in FLAGS}
    given = set()
    for argument in argv:
        name, separator, text = argument.removeprefix("--").partition("=")
        known = argument.startswith("--") and name in flags
        if not known or not (separator or isinstance(flags[name].default, bool)):
            raise FlagError(f"unknown argument: {argument}")
        values[name] = flags[name].parse(text if separator else None)
        given.add(name)
    without_effect = [flag for flag in FLAGS if flag.name in given and not flag.has_effect]
    return SimpleNamespace(flags_without_effect=without_effect, **values)


def usage():
    """Return the usage text: every flag with its type, default and help."""
    lines = (
        f"\t{f'--{flag.name}={_text(flag.default)}':<50}\t{type(flag.default).__name__}\t{flag.help}" for flag in FLAGS
    )
    return "\n".join(["usage: python -m rnn_serving.model_server", "Flags (--name=value):", *lines])


def _text(value):
    return str(value).lower() if isinstance(value, bool) else value
