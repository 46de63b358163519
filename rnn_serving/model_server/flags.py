"""The command line of `tensorflow_model_server`: `--name=value`, and nothing else."""

import re
from dataclasses import dataclass
from types import SimpleNamespace

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class FlagError(Exception):
    """A command line that is not understood."""


@dataclass(frozen=True)
class Flag:
    """One flag: its name, its default (whose type is the flag's) and what it is for."""

    name: str
    default: int | str | bool
    help: str

    def parse(self, text):
        """Return the value of a text, None for a boolean without one.

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


FLAGS = (
    Flag("host", "127.0.0.1", "address to listen on; tensorflow_model_server, which lacks it, listens on all"),
    Flag("port", 8500, "TCP port for gRPC; 0 for none, then --grpc_socket_path is needed"),
    Flag("grpc_socket_path", "", "listen on this UNIX socket too"),
    Flag("rest_api_port", 0, "TCP port for HTTP and REST; 0 for none"),
    Flag("rest_api_num_threads", 0, "REST requests handled at a time; 0 for four times the number of CPUs"),
    Flag("rest_api_timeout_in_ms", 30_000, "time limit of a REST request's model call; 0 or less for none"),
    Flag("rest_api_enable_cors_support", False, "add Access-Control-* headers to REST answers"),
    Flag("model_name", "default", "name of the model (ignored with --model_config_file)"),
    Flag("model_base_path", "", "absolute path of its version directories (ignored with --model_config_file)"),
    Flag("model_config_file", "", "text file with a ModelServerConfig: several models, policies, labels"),
    Flag("model_config_file_poll_wait_seconds", 0, "seconds between two looks into that file; 0 for one look"),
    Flag("file_system_poll_wait_seconds", 1, "seconds between two looks for versions; 0 for one look, less for none"),
    Flag("max_num_load_retries", 5, "how often to try again to load a version"),
    Flag("load_retry_interval_micros", 60_000_000, "microseconds between two tries; less than 0 for no wait"),
    Flag("num_load_threads", 0, "accepted; every model loads in a thread of its own"),
    Flag("num_unload_threads", 0, "accepted; every model unloads in a thread of its own"),
    Flag("enable_batching", False, "join concurrent requests into one model call"),
    Flag("batching_parameters_file", "", "text file with BatchingParameters; needs --enable_batching"),
    Flag("enable_per_model_batching_parameters", False, "batching_params.pbtxt in a version's directory decides"),
    Flag("allow_version_labels_for_unavailable_models", False, "let new labels name versions that are not loaded"),
    Flag("enable_model_warmup", True, "send a version its assets.extra/tf_serving_warmup_requests before it is used"),
    Flag("num_request_iterations_for_warmup", 0, "how often each of them; 0 for once"),
    Flag("saved_model_tags", "serve", "comma-separated tags of the graph to load"),
    Flag("enable_signature_method_name_check", False, "let Classify and Regress insist on the signature's method name"),
    Flag("enable_serialization_as_tensor_content", False, "answer Predict with tensor_content, not typed fields"),
    Flag("prefer_tflite_model", False, "a model.tflite would be loaded, which is refused"),
    Flag("grpc_channel_arguments", "", "comma-separated name=value options of the gRPC server"),
    Flag("grpc_max_threads", 0, "gRPC calls handled at a time; 0 for four times the number of CPUs"),
    Flag("enable_grpc_healthcheck_service", False, "serve grpc.health.v1.Health"),
    Flag("tensorflow_session_parallelism", 0, "threads of a model, inside ops and between them; 0 for the CPUs"),
    Flag("tensorflow_intra_op_parallelism", 0, "threads inside an op; 0 for the CPUs"),
    Flag("tensorflow_inter_op_parallelism", 0, "threads between ops; 0 for the CPUs"),
    Flag("monitoring_config_file", "", "text file with a MonitoringConfig: where Prometheus finds metrics"),
    Flag("ssl_config_file", "", "refused: TLS is not served"),
    Flag("enable_profiler", True, "has no effect: there is no profiler service"),
    Flag("version", False, "print the version and exit"),
)


def parse(argv):
    """Return the flags as a namespace.

    Raises: FlagError for the first argument that is unknown or has a value of the wrong type.
    """
    flags = {flag.name: flag for flag in FLAGS}
    values = {flag.name: flag.default for flag in FLAGS}
    for argument in argv:
        name, separator, text = argument.removeprefix("--").partition("=")
        known = argument.startswith("--") and name in flags
        if not known or not (separator or isinstance(flags[name].default, bool)):
            raise FlagError(f"unknown argument: {argument}")
        values[name] = flags[name].parse(text if separator else None)
    return SimpleNamespace(**values)


def usage():
    """Return the list of flags with their defaults."""
    lines = (
        f"\t{f'--{flag.name}={_text(flag.default)}':<50}\t{type(flag.default).__name__}\t{flag.help}" for flag in FLAGS
    )
    return "\n".join(["usage: python -m rnn_serving.model_server", "Flags (--name=value):", *lines])


def _text(value):
    return str(value).lower() if isinstance(value, bool) else value
