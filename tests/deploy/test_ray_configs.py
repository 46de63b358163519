"""The files that start the Ray Serve application on a cluster that others run: they are whole, and one of them runs."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, started
from endpoint_processes import wait_until

import flask_client
import tfserving_client
from benchmarks.server_processes import free_port
from deploy.ray.settings import Settings
from rnn_serving import checkpoint

RAY = ROOT / "deploy" / "ray"
CONFIG = yaml.safe_load((RAY / "serve_config.yaml").read_text())
SERVICE = yaml.safe_load((RAY / "rayservice.yaml").read_text())
PROGRAMS = Path(sys.executable).parent


def test_the_settings_of_the_config_are_those_of_the_application():
    [application] = CONFIG["applications"]
    settings = Settings(**application["args"])
    assert application["import_path"] == "deploy.ray.application:build"
    for options in (CONFIG["http_options"], CONFIG["grpc_options"]):
        assert options["request_timeout_s"] > settings.request_timeout


def test_the_ray_service_deploys_the_same_config():
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == CONFIG


def test_the_ray_service_has_the_fields_that_kuberay_reads():
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("ray.io/v1", "RayService")
    cluster = SERVICE["spec"]["rayClusterConfig"]
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
    assert cluster["rayVersion"] == constraints["ray"]
    [workers] = cluster["workerGroupSpecs"]
    args = CONFIG["applications"][0]["args"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert workers["replicas"] >= args["min_replicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"startupProbe", "livenessProbe", "readinessProbe", "resources"} <= set(container)
        ports = {port["containerPort"] for port in container["ports"]}
        assert {CONFIG["http_options"]["port"], CONFIG["grpc_options"]["port"]} <= ports
        assert args["model_base_path"].startswith(container["volumeMounts"][0]["mountPath"])


@pytest.mark.slow
def test_serve_deploy_starts_what_both_clients_grade(export_base, data_dir, checkpoint_dir, tmp_path):
    ports = {name: free_port() for name in ("gcs", "dashboard", "agent", "grpc", "http")}
    config = yaml.safe_load((RAY / "serve_config.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": ports["http"]}
    config["grpc_options"]["port"] = ports["grpc"]
    config["applications"][0]["args"] |= {"model_base_path": str(export_base)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    # Otherwise Ray would write a token to the home directory, and its command-line tools would not read it.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    node = [PROGRAMS / "ray", "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true"]
    node += [f"--port={ports['gcs']}", f"--dashboard-port={ports['dashboard']}"]
    node += [f"--dashboard-agent-listen-port={ports['agent']}"]
    address = f"http://127.0.0.1:{ports['dashboard']}"
    with started(*node, ready="Ray runtime started", env=environment):

        def serve(*arguments):
            command = [PROGRAMS / "serve", *arguments, "--address", address]
            return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

        wait_until(lambda: serve("status").returncode == 0, limit_s=90)
        deployed = serve("deploy", str(tmp_path / "config.yaml"))
        assert deployed.returncode == 0, deployed.stderr
        wait_until(lambda: "status: RUNNING" in serve("status", "--name", "model").stdout, limit_s=120)
        for main, port in ((tfserving_client.main, ports["grpc"]), (flask_client.main, ports["http"])):
            assert main(["--data_dir", str(data_dir), "--port", str(port), "--json", str(tmp_path / "report")]) == 0
            report = json.loads((tmp_path / "report").read_text())
            assert report["accuracy"] == checkpoint.read_run(checkpoint_dir)["testing_accuracy"]
