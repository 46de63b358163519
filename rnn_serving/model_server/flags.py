"""The command line of `tensorflow_model_server`: `--name=value`, and nothing else."""

from dataclasses import dataclass
from types import SimpleNamespace

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
            return kind(text)
        except (KeyError, ValueError, TypeError) as error:
            raise FlagError(f"--{self.name}={text}: expected a value of type {kind.__name__}") from error


FLAGS = (
    Flag("host", "127.0.0.1", "address to listen on; tensorflow_model_server, which lacks it, listens on 0.0.0.0"),
    Flag("port", 8500, "TCP port for gRPC"),
    Flag("rest_api_port", 0, "TCP port for HTTP and REST; 0, which is all there is so far, for none"),
    Flag("model_name", "default", "name under which clients ask for the model"),
    Flag("model_base_path", "", "absolute path of the directory with the model's version directories"),
    Flag("file_system_poll_wait_seconds", 1, "seconds between two looks for a version to serve"),
    Flag("max_num_load_retries", 5, "how often to try again to load a version"),
    Flag("load_retry_interval_micros", 60_000_000, "microseconds between two tries"),
    Flag("grpc_max_threads", 0, "calls handled at a time; 0 for four times the number of CPUs"),
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
        f"\t{f'--{flag.name}={_text(flag.default)}':<45}\t{type(flag.default).__name__}\t{flag.help}" for flag in FLAGS
    )
    return "\n".join(["usage: python -m rnn_serving.model_server", "Flags (--name=value):", *lines])


def _text(value):
    return str(value).lower() if isinstance(value, bool) else value
