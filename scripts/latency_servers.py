"""Start, or find, the servers that compare_latency.py measures, all with the same model and the same thread limit.

No TensorFlow before a function is called: the process of the load generator imports this module as well.
"""

import shutil
from dataclasses import dataclass, field

from latency_exam import MODEL_NAME, Grader

import flask_client
from rnn_serving import environment, exports, processes
from rnn_serving.command_line import UserError
from rnn_serving.load_generator import GRPCTarget, HTTPTarget

# What --servers chooses from.
CPP_SERVER = "tensorflow_model_server"
CHOICES = ("article", "flask", "gateway", "model_server", CPP_SERVER)
# GiB that a server's process takes of its own, beside what it shares with the others of TensorFlow's files.
MEMORY_GIB = 0.5


@dataclass
class Measured:
    """A server under measurement: who it is, how it is asked, and its turns, {point: [Turn]}.

    `failure` says why it cannot be measured, or not any more; `remark` what it serves instead of the model.
    """

    server: str
    protocol: str
    command: str
    threads: str
    version: int | None = None
    target: object = None
    grader: Grader | None = None
    failure: str = ""
    remark: str = ""
    turns: dict = field(default_factory=dict)


def pinned(model_path, directory):
    """Copy the newest version under `model_path` to a base of its own, so that all servers serve it; return the base.

    Raises: exports.ExportError if there is none.
    """
    source = exports.newest(model_path)
    base = directory / MODEL_NAME
    shutil.copytree(source, base / str(exports.version_number(source.resolve())))
    return base


def open_servers(stack, args, base, exam):
    """Return a `Measured` for each server that the flags ask for; `stack`, an ExitStack, stops those that were started.

    One that cannot be had is in the list too, with the reason. Raises: UserError if there is no memory for all.
    """
    sources = _Sources(stack, args, base)
    check_memory(sources.count_processes())
    opener, servers = _Opener(exam, args.timeout), []
    if "article" in args.servers:
        # It does not tell which version it serves.
        servers.append(opener.flask("article", sources.article(), exam.version))
    if "flask" in args.servers:
        servers += [opener.flask(name, source) for name, source in sources.flask().items()]
    if "gateway" in args.servers:
        servers.append(opener.flask("flask gateway", sources.gateway()))
    for name, source in sources.model_servers().items():
        servers += [opener.rest(name, source)] if source.rest_address else []
        servers.append(opener.grpc(name, source))
    return servers


def check_memory(count):
    """Raise UserError if there is no memory for a number of servers at the same time."""
    free, needed = environment.free_memory_gib(), count * MEMORY_GIB
    if free is not None and free < needed:
        raise UserError(
            f"{free:.1f} GiB of memory are free, {count} servers take {needed:.1f}; choose some by --servers"
        )


class _Found:
    """A server that runs already."""

    command, threads = "was running already", "as it was started"

    def __init__(self, address, rest_address=None):
        self._address, self.rest_address = address, rest_address

    def address(self):
        return self._address


class _Started:
    """A server that is started when its address is asked for the first time; `behind` is one that it needs."""

    def __init__(self, stack, process, threads, behind=None):
        self._stack, self._process, self._behind, self._address = stack, process, behind, None
        self.command, self.threads = str(process), threads
        port = getattr(process, "rest_port", None)
        self.rest_address = port and f"127.0.0.1:{port}"

    def address(self):
        """Return the address. Raises: UserError, the same each time, if it does not start."""
        if self._address is None:
            try:
                self._address = self._start()
            except UserError as error:
                self._address = error
        if isinstance(self._address, UserError):
            raise self._address
        return self._address

    def _start(self):
        if self._behind:
            self._behind.address()
        print(f"Starting {self.command}", flush=True)
        return self._stack.enter_context(self._process)


class _Sources:
    """Where each of the servers comes from: the flags, or a process to start."""

    def __init__(self, stack, args, base):
        self._stack, self._args, self._base = stack, args, base
        self._cores = environment.available_cores()
        self._threads = args.threads or self._cores
        self._cpp = None if args.tfserving else processes.cpp_server()
        self._own = _Found(args.tfserving, args.tfserving_rest) if args.tfserving else self._model_server("python")

    def count_processes(self):
        """Return how many processes with TensorFlow are going to be started."""
        wanted, found = self._args.servers, bool(self._args.tfserving)
        count = {
            "article": 1,
            "flask": 0 if self._args.flask else sum(self._numbers_of_workers()),
            "gateway": 1 + (not found and "model_server" not in wanted),
            "model_server": 0 if found else 1,
            CPP_SERVER: 1 if self._cpp else 0,
        }
        return sum(count[name] for name in wanted)

    def article(self):
        process = processes.ArticleServer(self._base, self._threads)
        return _Started(self._stack, process, f"{self._threads} (TF_NUM_INTRAOP_THREADS)")

    def flask(self):
        """Return {name: source} of the Flask endpoint with one worker, and with one a core."""
        if self._args.flask:
            return {"flask": _Found(self._args.flask.rstrip("/") + "/")}
        return dict(map(self._flask, self._numbers_of_workers()))

    def _numbers_of_workers(self):
        return sorted({1, self._cores})

    def _flask(self, workers):
        threads = max(1, self._threads // workers)
        flags = ("--workers", str(workers), "--threads", str(threads), "--request_timeout", str(self._args.timeout))
        process = processes.FlaskServer(self._base, *flags)
        name, each = ("flask", "") if workers == 1 else (f"flask, {workers} workers", f" in each of {workers} workers")
        return name, _Started(self._stack, process, f"{threads}{each} (--threads)")

    def gateway(self):
        backend = self._args.tfserving or f"127.0.0.1:{self._own.port}"
        flags = ("--backend", backend, "--model_name", MODEL_NAME, "--request_timeout", str(self._args.timeout))
        process = processes.FlaskServer(self._base, *flags)
        return _Started(self._stack, process, "those of the model server behind it", behind=self._own)

    def model_servers(self):
        """Return {name: source}; one that was found tells its name later."""
        wanted = self._args.servers
        if self._args.tfserving:
            return {"tfserving": self._own} if {"model_server", CPP_SERVER} & set(wanted) else {}
        own = {"rnn_serving.model_server": self._own} if "model_server" in wanted else {}
        is_cpp_wanted = self._cpp and CPP_SERVER in wanted
        return own | ({CPP_SERVER: self._model_server(self._cpp)} if is_cpp_wanted else {})

    def _model_server(self, program):
        flags = [f"--tensorflow_{kind}_op_parallelism={self._threads}" for kind in ("intra", "inter")]
        process = processes.TFServing(self._base, *flags, program=program)
        started = _Started(self._stack, process, f"{self._threads} (--tensorflow_intra_op_parallelism)")
        started.port = process.port
        return started


class _Opener:
    """Asks a server who it is and what it serves before it is measured."""

    def __init__(self, exam, timeout_s):
        self._exam, self._timeout_s = exam, timeout_s

    def flask(self, name, source, version=None):
        """Return the `Measured` of a server that answers as the Flask endpoint does."""

        def complete(measured):
            url = source.address()
            metadata = flask_client.metadata(url, self._timeout_s)
            measured.version = metadata.get("version", version)
            measured.remark = self._remark(metadata.get("version"), metadata.get("dataset"))
            self._examine(measured, self._exam.flask, HTTPTarget(url, self._exam.flask.requests))

        return _completed(Measured(name, "HTTP/JSON", source.command, source.threads), complete)

    def rest(self, name, source):
        """Return the `Measured` of a model server over REST."""

        def complete(measured):
            source.address()
            self._ask("rest", source.rest_address, measured)
            url = f"http://{source.rest_address}/v1/models/{MODEL_NAME}:predict"
            self._examine(measured, self._exam.rest, HTTPTarget(url, self._exam.rest.requests))

        return _completed(Measured(name, "REST", source.command, source.threads), complete)

    def grpc(self, name, source):
        """Return the `Measured` of a model server over gRPC."""

        def complete(measured):
            self._ask("grpc", source.address(), measured)
            self._examine(measured, self._exam.grpc, GRPCTarget(source.address(), self._exam.grpc.requests))

        return _completed(Measured(name, "gRPC", source.command, source.threads), complete)

    def _ask(self, protocol, address, measured):
        """Learn the name of a model server's program and the version it serves.

        Raises: UserError if it is not there, or if its model does not take the images.
        """
        import tfserving_client

        open_client = {"rest": tfserving_client.open_rest, "grpc": tfserving_client.open_grpc}[protocol]
        flags = ["--model_name", MODEL_NAME, "--timeout", str(self._timeout_s)]
        with open_client(address, tfserving_client.parse_arguments(flags)) as (program, version, _):
            measured.server, measured.version, measured.remark = program, version, self._remark(version)

    def _examine(self, measured, paper, target):
        measured.target, measured.grader = target, Grader(paper, self._exam.labels)

    def _remark(self, version, dataset=None):
        """Return in what a served model differs from the exam's; None stands for what a server does not tell."""
        if version not in (None, self._exam.version):
            return f"serves version {version}; expected {self._exam.version}"
        if dataset and self._exam.dataset and dataset != self._exam.dataset:
            return f"serves a model of {dataset}; expected {self._exam.dataset}"
        return ""


def _completed(measured, complete):
    try:
        complete(measured)
    except UserError as error:
        measured.failure = str(error)
    return measured
