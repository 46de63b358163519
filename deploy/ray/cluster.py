"""Start Ray and Serve, deploy the application, and wait until it runs or shows why it cannot."""

import contextlib
import io
import logging
import os
import time

# Before Ray is imported, which reads them; on nodes that it did not start itself, set them before `ray start`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
# Proxies call replicas by gRPC instead of as actors: twice the requests/s, and those that a dead replica had accepted
# are more often repeated.
os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
from ray.serve.schema import ApplicationStatus

from deploy.ray.application import APPLICATION, DEPLOYMENT, GRPC_SERVICES, build
from rnn_serving.command_line import UserError
from rnn_serving.object_store.store import Store, StoreError, is_remote

POLL_S = 0.2
# Later than the replicas' own deadline, whose error says more.
PROXY_GRACE_S = 1.0
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


@contextlib.contextmanager
def running_cluster(address=None):
    """Connect to the Ray cluster at `address`, or start one on this machine; at the end, leave it or stop it.

    Raises: UserError if there is no cluster at the address.
    """
    try:
        # Without an address, Ray would join whatever cluster was last started on this machine.
        own = {} if address else {"include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **own)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"--address {address}" if address else "Ray does not start on this machine"
        raise UserError(f"{where}: {error}; expected a Ray cluster that runs") from error
    try:
        yield
    finally:
        with _without_output():
            ray.shutdown()


@contextlib.contextmanager
def running_serve(host, http_port, grpc_port, request_timeout_s):
    """Start Serve's proxies on each node with replicas, for HTTP at `host` and for gRPC at all addresses; stop them.

    Raises: UserError if Serve runs on the cluster already: its ports would stay, and its applications end with ours.
    """
    if serve.status().proxies:
        raise UserError(
            "Serve runs on this cluster already; expected one without, or serve deploy deploy/ray/serve_config.yaml"
        )
    timeout_s = request_timeout_s + PROXY_GRACE_S
    serve.start(
        proxy_location=ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=host, port=http_port, request_timeout_s=timeout_s),
        grpc_options=gRPCOptions(
            port=grpc_port, grpc_servicer_functions=list(GRPC_SERVICES), request_timeout_s=timeout_s
        ),
        logging_config=LOGGING,
    )
    try:
        yield
    finally:
        with _without_output():
            serve.shutdown()


def _without_output():
    """Hide standard output in a `with`: to Ray, that its controller ends with Serve is a failure to be printed."""
    return contextlib.redirect_stdout(io.StringIO())


def deploy(settings, timeout_s):
    """Deploy the application of a `settings.Settings`, and wait until it runs.

    Raises: UserError with what Ray says if it fails, or does not run after `timeout_s` seconds.
    """
    serve.run_many(
        [serve.RunTarget(build(settings), name=APPLICATION, logging_config=LOGGING)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    deadline = time.monotonic() + timeout_s
    while True:
        application = serve.status().applications.get(APPLICATION)
        status = application and application.status
        if status == ApplicationStatus.RUNNING:
            return
        if status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise UserError(f"the application is {status.value}: {_reason(application)}")
        if time.monotonic() >= deadline:
            raise UserError(f"the application does not run after {timeout_s:g} s: {_missing(application, settings)}")
        time.sleep(POLL_S)


def running_replicas():
    """Return how many replicas answer requests."""
    application = serve.status().applications.get(APPLICATION)
    return application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0) if application else 0


def _reason(application):
    """Return what Ray says of an application that failed: the last lines are those of the error itself."""
    messages = [application.message, *(each.message for each in application.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no message")


def _missing(application, settings):
    """Return what an application waits for: for room if the free cores do not do, or else for its replicas."""
    wanted, free = settings.min_replicas, ray.available_resources().get("CPU", 0)
    states = application.deployments[DEPLOYMENT].replica_states if application and application.deployments else {}
    running = states.get("RUNNING", 0)
    needed = (wanted - running) * settings.cpus_per_replica
    found = f"{running} of {wanted} replicas run"
    if needed > free + 1e-6 and "STARTING" in states:
        return (
            f"{found}, the others need {needed:g} cores and {free:g} are free; expected more nodes, fewer replicas "
            "(--min_replicas) or fewer cores for each (--cpus_per_replica)"
        )
    return f"{found}; {_why_none_loads(settings.model_base_path)}"


def _why_none_loads(base_path):
    """Return what keeps replicas from loading a version: of a store, what it says."""
    if is_remote(base_path):
        try:
            Store(base_path).listing()
        except StoreError as error:
            return str(error)
    return f"expected a version to load under {base_path} on every node"
