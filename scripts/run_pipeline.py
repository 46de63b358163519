"""Run all steps in order, as a user would: data, train, export, serve both ways, grade and time both, compare.

    python scripts/run_pipeline.py                     # MNIST, or the offline digits if there is no network
    python scripts/run_pipeline.py --data_dir DIR      # any data set in MNIST's form

Each step's command is printed before it runs. The servers use free ports and are stopped whatever happens; a second
run publishes the next version.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import requests

from benchmarks import server_processes
from benchmarks.compare.flags import QUICK
from rnn_serving import command_line, dataset
from rnn_serving.command_line import UserError
from rnn_serving.dataset import NoNetworkError

DIGITS_DIRECTORY = "data/digits"
# Seconds in which a mirror must answer; a network that hangs counts as none.
NETWORK_LIMIT_S = 4


def main(argv=None):
    """Run the pipeline; return the exit status."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    os.chdir(server_processes.ROOT)
    data = data_set(args.data_dir)
    name = dataset.dataset_name(data)
    args.checkpoint_dir = args.checkpoint_dir or f"checkpoints/{name}"
    args.export_base_path = args.export_base_path or f"exports/{name}"
    args.reports_dir = reports_directory(args.reports_dir)
    train_and_export(args, data)
    serve_and_compare(args, data)
    print(
        f"\nCheckpoint: {args.checkpoint_dir}   model: {args.export_base_path}   reports: {args.reports_dir}   "
        f"data: {data}"
    )
    return 0


def reports_directory(directory):
    """Return `directory`, or its subdirectory `quick` if `directory` holds a longer comparison."""
    try:
        report = json.loads(Path(directory, "latency.json").read_text(encoding="utf-8"))
        measured = {"concurrency": report["concurrencies"], "rate": report["rates_rps"], "rounds": report["rounds"]}
        is_quick = measured == {key: QUICK[key] for key in measured}
    except FileNotFoundError:
        return directory
    except (ValueError, KeyError, TypeError):
        is_quick = False  # not known to be one that this script may replace
    if is_quick:
        return directory
    quick = os.path.join(directory, "quick")
    print(f"{directory} keeps the longer comparison that is there: this run's quick one goes to {quick}")
    return quick


def train_and_export(args, data):
    """Run steps 1 and 2."""
    paths = ["--data_dir", data, "--checkpoint_dir", args.checkpoint_dir]
    steps = ["--training_steps", args.training_steps] if args.training_steps else []
    steps += ["--restart"] if args.restart else []
    run("train_lstm.py", *paths, *steps)
    run("export_savedmodel.py", *paths, "--export_base_path", args.export_base_path)


def serve_and_compare(args, data):
    """Run steps 3 and 4: start both servers, grade them with their clients, and compare them."""
    model = ["--model_name", Path(os.path.abspath(args.export_base_path)).name]
    client = ["--data_dir", data, *(["--num_tests", args.num_tests] if args.num_tests else [])]
    with announced(server_processes.FlaskServer(args.export_base_path)) as url:
        run("flask_client.py", *client, "--port", port_of(url))
        tfserving = server_processes.TFServing(args.export_base_path, "=".join(model))
        with announced(tfserving) as address:
            run("tfserving_client.py", *client, *model, "--port", port_of(address))
            rest = address.replace(port_of(address), str(tfserving.rest_port))
            servers = ["--flask", url, "--tfserving", address, "--tfserving_rest", rest]
            compared = ["--quick", "--servers", "article,flask,model_server", "--model_path", args.export_base_path]
            compared += [*model, *(["--duration", args.duration] if args.duration else [])]
            run("scripts/compare_latency.py", *client, *servers, *compared, "--reports_dir", args.reports_dir)


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--checkpoint_dir", help="where checkpoints go (default: checkpoints/<name of the data set>)")
    parser.add_argument("--training_steps", type=command_line.positive_int, help="as for train_lstm.py")
    parser.add_argument("--restart", action="store_true", help="delete the run and start over, as for train_lstm.py")
    parser.add_argument("--export_base_path", help="the model's versions (default: exports/<name of the data set>)")
    parser.add_argument("--num_tests", type=command_line.positive_int, help="test images to send, as for the clients")
    parser.add_argument(
        "--reports_dir", default="reports", help="where the report goes; below it, in quick/, if a longer one is there"
    )
    parser.add_argument(
        "--duration",
        type=command_line.positive_float,
        help="seconds of each turn of the comparison (default: chosen so that all turns take 30 s)",
    )
    return parser.parse_args(argv)


def data_set(directory):
    """Return the directory of the data set to use: the one asked for, or the offline digits if there is no network."""
    if directory != dataset.DEFAULT_DIRECTORY or dataset.is_complete(directory):
        return directory
    try:
        if not network_answers():
            raise NoNetworkError("none of its mirrors answers")
        print_command(f"python -m rnn_serving.dataset {directory}")
        dataset.download(directory)
        return directory
    except NoNetworkError as error:
        print(f"No MNIST ({error}): taking scikit-learn's digits, {DIGITS_DIRECTORY}")
    run("-m", "rnn_serving.digits", DIGITS_DIRECTORY)
    return DIGITS_DIRECTORY


def network_answers(mirrors=dataset.MNIST_MIRRORS, limit_s=NETWORK_LIMIT_S):
    """Return whether one of the mirrors gives any answer within the limit."""
    answered = threading.Event()
    finished = threading.Semaphore(0)

    def ask(mirror):
        try:
            requests.head(mirror, timeout=limit_s)
            answered.set()
        except requests.RequestException:
            pass
        finally:
            finished.release()

    # Daemon threads, because looking up a host's name has no time-out of its own.
    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    for _ in mirrors:
        if answered.is_set() or not finished.acquire(timeout=limit_s):
            break
    return answered.is_set()


def announced(server):
    """Return a `ServerProcess`, to be run in a `with`, after printing its command."""
    print_command(f"{server} &")
    return server


def run(script, *flags):
    """Run one step with this Python.

    Raises: UserError if its exit status is not 0.
    """
    arguments = [script, *map(str, flags)]
    print_command(shlex.join(["python", *arguments]))
    status = subprocess.run([sys.executable, *arguments], check=False).returncode
    if status:
        raise UserError(f"{script} ended with status {status}; expected 0")


def print_command(command):
    """Print the command of a step, as a shell would show it."""
    print(f"\n$ {command}", flush=True)


def port_of(address):
    """Return the port of a URL or of HOST:PORT."""
    return address.rstrip("/").rsplit(":", 1)[1]


if __name__ == "__main__":
    command_line.run(main)
