"""Compare the Flask server and TensorFlow Serving: same model, same images, alternating rounds.

    python scripts/compare_latency.py --data_dir data/mnist --model_path exports/mnist

Starts both servers, or takes --flask URL and --tfserving HOST:PORT of servers that run already. Prints a table and
writes reports/latency.json, .md and .png.
"""

import argparse
import contextlib
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

import flask_client
import tfserving_client
from rnn_serving import command_line, dataset, environment, exports, files, latency, processes
from rnn_serving.command_line import UserError
from rnn_serving.latency import Load

CONCURRENCIES = (1, 8, 32)
BASELINE = "flask"
COLUMNS = ("server", "concurrency", "accuracy", "p50 ms", "p95 ms", "p99 ms", "requests/s", "ratio to Flask", "errors")


def main(argv=None):
    """Measure, report, and return the exit status: 1 if a request went without an answer."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    with contextlib.ExitStack() as stack:
        servers = open_servers(stack, args)
        measure(servers, test, args.rounds)
    reports = [server.report(concurrency, args, len(test)) for concurrency in CONCURRENCIES for server in servers]
    result = {
        "dataset": dataset.dataset_name(args.data_dir),
        "num_tests": len(test),
        "rounds": args.rounds,
        "machine": environment.machine(),
        "versions": environment.versions(),
        "rows": with_ratios(reports, servers),
    }
    table = markdown_table(result["rows"])
    print(table)
    write_reports(Path(args.reports_dir), result, table, servers)
    errors = sum(row["errors"] for row in result["rows"])
    return command_line.fail(f"requests without an answer: {errors}; expected none") if errors else 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--model_path", default="exports/mnist", help="directory of the versions to serve")
    parser.add_argument("--flask", metavar="URL", help="a Flask server that runs already (default: start one)")
    parser.add_argument("--tfserving", metavar="HOST:PORT", type=host_and_port, help="the same for TensorFlow Serving")
    parser.add_argument(
        "--num_tests", type=command_line.positive_int, help="test images a round (default: all, but 1,000 at most)"
    )
    parser.add_argument("--rounds", type=command_line.positive_int, default=3, help="rounds at each concurrency")
    parser.add_argument("--timeout", type=command_line.positive_float, default=10.0, help="seconds one answer may take")
    parser.add_argument("--reports_dir", default="reports", help="where latency.json, .md and .png go")
    return parser.parse_args(argv)


def host_and_port(text):
    """Parse HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


@dataclass
class Measured:
    """A server under measurement: how to connect to it, and one `Load` a round for each concurrency."""

    name: str
    protocol: str
    version: int
    connect: object
    loads: dict = field(default_factory=lambda: {concurrency: [] for concurrency in CONCURRENCIES})

    def report(self, concurrency, args, num_tests):
        """Return the clients' report over all rounds at one concurrency; the throughput is the rounds' median."""
        loads = self.loads[concurrency]
        whole = Load(
            sum(load.elapsed_s for load in loads),
            [seconds for load in loads for seconds in load.latencies_s],
            sum(load.correct for load in loads),
            [error for load in loads for error in load.errors],
        )
        made = latency.make_report(
            *(self.name, self.protocol, self.version, dataset.dataset_name(args.data_dir)),
            *(whole, num_tests * len(loads), concurrency, 1),
        )
        return made | {"throughput_rps": statistics.median(map(throughput, loads))}


def throughput(load):
    """Return the answered requests a second of a `Load`."""
    return len(load.latencies_s) / load.elapsed_s


def open_servers(stack, args):
    """Start, or find, the two servers and check that both have the model; they are stopped with `stack`."""
    if not (args.flask and args.tfserving):
        exports.newest(args.model_path)
    url = args.flask or stack.enter_context(processes.FlaskServer(args.model_path))
    url = url.rstrip("/") + "/"
    metadata = flask_client.metadata(url, args.timeout)
    flask = Measured(BASELINE, "HTTP/JSON", metadata.get("version"), lambda: flask_client.connect(url, args.timeout))

    address = args.tfserving or stack.enter_context(processes.TFServing(args.model_path))
    asked = tfserving_client.parse_arguments(["--timeout", str(args.timeout)])
    name, version, connect = stack.enter_context(tfserving_client.open_grpc(address, asked))
    if metadata.get("version", version) != version:
        raise UserError(f"{url} serves version {metadata['version']}, {address} version {version}; expected the same")
    return [flask, Measured(name, "gRPC", version, connect)]


def measure(servers, test, rounds):
    """Ask every server for all test images in each round, the servers taking turns at going first."""
    total = len(CONCURRENCIES) * rounds * len(servers)
    with tqdm(total=total, desc="measuring", unit="run", disable=None) as progress:
        for concurrency in CONCURRENCIES:
            for turn in range(rounds):
                for server in servers if turn % 2 == 0 else reversed(servers):
                    load = latency.run_load(server.connect, test, concurrency=concurrency)
                    server.loads[concurrency].append(load)
                    progress.update()


def with_ratios(reports, servers):
    """Add to each report `ratio_to_flask`, the median of the rounds' ratios of throughput."""
    (flask,) = (server for server in servers if server.name == BASELINE)
    loads = {
        (server.name, concurrency): server.loads[concurrency] for server in servers for concurrency in CONCURRENCIES
    }
    rows = []
    for report in reports:
        concurrency = report["concurrency"]
        pairs = zip(loads[report["server"], concurrency], flask.loads[concurrency])
        ratios = [throughput(mine) / throughput(its) for mine, its in pairs if throughput(its)]
        rows.append(report | {"ratio_to_flask": statistics.median(ratios) if ratios else None})
    return rows


def markdown_table(rows):
    """Return the rows as one Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        quantiles = [number(row["latency_ms"][name]) for name in ("p50", "p95", "p99")]
        ratio = number(row["ratio_to_flask"])
        cells = [row["server"], row["concurrency"], f"{100 * row['accuracy']:.2f} %", *quantiles]
        cells += [f"{row['throughput_rps']:.0f}", ratio, row["errors"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def number(value):
    """Return a number with two decimals, a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def write_reports(directory, result, table, servers):
    """Write the result as JSON, Markdown and a picture."""
    files.write_json(directory / "latency.json", result)
    about = f"Data set {result['dataset']}, {result['num_tests']} images a round, {result['rounds']} rounds; "
    about += f"{result['machine']['cpu']}, {result['machine']['cores']} cores, client on the same machine."
    files.write_text(directory / "latency.md", f"# Latency\n\n{about}\n\n{table}\n")
    plot(directory / "latency.png", result, servers)
    print(f"Wrote {directory}/latency.json, {directory}/latency.md and {directory}/latency.png")


def plot(path, result, servers):
    """Draw the latency distribution at each concurrency, and throughput over concurrency."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(1, len(CONCURRENCIES) + 1, figsize=(15, 4), layout="constrained")
    for server in servers:
        label = f"{server.name} ({server.protocol})"
        for axis, concurrency in zip(axes, CONCURRENCIES):
            latencies = sorted(1000 * seconds for load in server.loads[concurrency] for seconds in load.latencies_s)
            axis.plot(latencies, [100 * (rank + 1) / len(latencies) for rank in range(len(latencies))], label=label)
        medians = [statistics.median(map(throughput, server.loads[concurrency])) for concurrency in CONCURRENCIES]
        axes[-1].plot(CONCURRENCIES, medians, marker="o", label=label)
    for axis, concurrency in zip(axes, CONCURRENCIES):
        axis.set(title=f"concurrency {concurrency}", xlabel="latency, ms", xscale="log", ylabel="requests answered, %")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[-1].set(title="throughput", xlabel="concurrency", ylabel="requests/s", xticks=CONCURRENCIES, ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(f"LSTM on {result['dataset']}, one image a request")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    command_line.run(main)
