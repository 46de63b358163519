"""Where the servers of the comparison come from: addresses in the flags, or processes to start.

All have the same model and the same thread limit. No TensorFlow: the process of the load generator imports this too.
"""

from benchmarks import cpp_server, server_processes
from rnn_serving import environment
from rnn_serving.command_line import UserError

# What --servers chooses from.
SERVERS = ("article", "flask", "gateway", "model_server", cpp_server.NAME, cpp_server.BATCHING)
# What tells the C++ servers from each other in the report.
CPP_VARIANTS = {cpp_server.NAME: "", cpp_server.BATCHING: ", batching"}
# GiB that a server's process takes, besides what it shares with the others of TensorFlow's files.
MEMORY_GIB = 0.5


class ExternalServer:
    """A server that runs already."""

    command, threads, settings, variant = "was running already", "as it was started", "", ""

    def __init__(self, address, rest_address=None):
        self._address, self.rest_address = address, rest_address

    def address(self):
        """Return the address."""
        return self._address


class ManagedServer:
    """A server that is started when its address is asked for the first time; `behind` is one that it needs.

    `settings` says what else of its flags matters; `variant` tells it from the same program with other flags.
    """

    def __init__(self, stack, process, threads, behind=None, settings="", variant=""):
        self._stack, self._process, self._behind, self._address = stack, process, behind, None
        self.settings, self.variant = settings, variant
        self.command, self.threads, self.port = str(process), threads, process.port
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


class ServerSources:
    """An `ExternalServer` or a `ManagedServer` for each server that the flags ask for."""

    def __init__(self, stack, args, base):
        """Prepare to serve the model under `base`; `stack`, an ExitStack, stops what is started."""
        self._stack, self._args, self._base = stack, args, base
        self._cores = environment.available_cores()
        self._threads = args.threads or self._cores
        self._cpp = None if args.tfserving else cpp_server.find()
        external = args.tfserving and ExternalServer(args.tfserving, args.tfserving_rest)
        self._own = external or self._model_server("python")

    def check_memory(self):
        """Raise UserError unless there is memory for all servers at the same time."""
        count, free = self._count_processes(), environment.free_memory_gib()
        needed = count * MEMORY_GIB
        if free is not None and free < needed:
            raise UserError(
                f"{free:.1f} GiB of memory are free, {count} servers take {needed:.1f}; choose some by --servers"
            )

    def _count_processes(self):
        """Return how many processes with TensorFlow are going to be started."""
        wanted, is_external = self._args.servers, bool(self._args.tfserving)
        count = {
            "article": 1,
            "flask": 0 if self._args.flask else sum(self._numbers_of_workers()),
            "gateway": 1 + (not is_external and "model_server" not in wanted),
            "model_server": 0 if is_external else 1,
            cpp_server.NAME: 1 if self._cpp else 0,
            cpp_server.BATCHING: 1 if self._cpp else 0,
        }
        return sum(count[name] for name in wanted)

    def article(self):
        """Return the article's Flask server."""
        process = server_processes.ArticleServer(self._base, self._threads)
        return ManagedServer(self._stack, process, f"{self._threads} (TF_NUM_INTRAOP_THREADS)")

    def flask(self):
        """Return {name: source} of the Flask endpoint with one worker, and with one per core."""
        if self._args.flask:
            return {"flask": ExternalServer(self._args.flask)}
        return dict(map(self._flask, self._numbers_of_workers()))

    def _numbers_of_workers(self):
        return sorted({1, self._cores})

    def _flask(self, workers):
        threads = max(1, self._threads // workers)
        flags = ("--workers", str(workers), "--threads", str(threads), "--request_timeout", str(self._args.timeout))
        process = server_processes.FlaskServer(self._base, *flags)
        name, each = ("flask", "") if workers == 1 else (f"flask, {workers} workers", f" in each of {workers} workers")
        return name, ManagedServer(self._stack, process, f"{threads}{each} (--threads)")

    def gateway(self):
        """Return the Flask gateway in front of the model server."""
        backend = self._args.tfserving or f"127.0.0.1:{self._own.port}"
        flags = (
            "--backend",
            backend,
            "--model_name",
            self._args.model_name,
            "--request_timeout",
            str(self._args.timeout),
            *self._tls_flags(),
        )
        process = server_processes.FlaskServer(self._base, *flags)
        return ManagedServer(self._stack, process, "those of the model server behind it", behind=self._own)

    def _tls_flags(self):
        """Return the flags of TLS that were given: the gateway reaches --tfserving as we do."""
        if not self._args.tfserving:
            return ()
        names = ("tls_ca_file", "tls_cert_file", "tls_key_file")
        given = {name: getattr(self._args, name) for name in names if getattr(self._args, name)}
        return [part for name, value in given.items() for part in (f"--{name}", value)]

    def model_servers(self):
        """Return {name: source}; an external one tells its name later."""
        wanted = self._args.servers
        if self._args.tfserving:
            return {"tfserving": self._own} if {"model_server", *CPP_VARIANTS} & set(wanted) else {}
        own = {"rnn_serving.model_server": self._own} if "model_server" in wanted else {}
        variants = {name: variant for name, variant in CPP_VARIANTS.items() if self._cpp and name in wanted}
        return own | {cpp_server.NAME + variant: self._cpp_server(variant) for variant in variants.values()}

    def _cpp_server(self, variant):
        flags, settings = cpp_server.FLAGS, cpp_server.THREAD_LIMIT
        if variant:
            # The one directory of this machine that a container sees is that of the versions.
            flags += cpp_server.batching_flags(self._base)
            settings += f"; {cpp_server.describe_batching()}"
        return self._model_server(self._cpp, *flags, settings=settings, variant=variant)

    def _model_server(self, program, *flags, settings="", variant=""):
        flags = [f"--model_name={self._args.model_name}", *flags]
        flags += [f"--tensorflow_{kind}_op_parallelism={self._threads}" for kind in ("intra", "inter")]
        process = server_processes.TFServing(self._base, *flags, program=program)
        limit = f"{self._threads} (--tensorflow_intra_op_parallelism)"
        return ManagedServer(self._stack, process, limit, settings=settings, variant=variant)
