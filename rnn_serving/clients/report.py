"""The report of a client: the same lines and the same JSON object, whichever server answered."""

import numpy as np

from rnn_serving import command_line, files

PERCENTILES = (50, 90, 95, 99)
# How many errors are printed; the JSON object lists all of them.
PRINTED_ERRORS = 5


def print_dataset_note(trained_on, graded_on):
    """Print a line if the server's model was trained on another data set; None means that this is not known."""
    if trained_on not in (None, graded_on):
        print(f"note: the server's model was trained on {trained_on}; it is graded on {graded_on}", flush=True)


def make_report(server, protocol, model_version, dataset, load, num_tests, concurrency, batch_size):
    """Return the report of a `GradedLoad`: `accuracy` over all images sent, latencies in milliseconds."""
    milliseconds = np.array(load.latencies_s or [np.nan]) * 1000
    summary = {"mean": milliseconds.mean()}
    summary |= {f"p{percent}": np.percentile(milliseconds, percent) for percent in PERCENTILES}
    summary |= {"max": milliseconds.max()}
    return {
        "server": server,
        "protocol": protocol,
        "model_version": model_version,
        "dataset": dataset,
        "num_tests": num_tests,
        "correct": load.correct,
        "accuracy": load.correct / num_tests,
        "errors": len(load.errors),
        "concurrency": concurrency,
        "batch_size": batch_size,
        "elapsed_s": load.elapsed_s,
        "throughput_rps": len(load.latencies_s) / load.elapsed_s,
        # Without an answer there is no latency, and JSON has no NaN.
        "latency_ms": {name: float(value) if load.latencies_s else None for name, value in summary.items()},
        "error_list": load.errors,
    }


def print_report(report):
    """Print a report for people."""
    print(
        f"{report['server']} over {report['protocol']}, model version {report['model_version']}, "
        f"data set {report['dataset']}"
    )
    print(f"Accuracy= {100 * report['accuracy']:.2f}")
    # The share of wrong digits: a request without an answer is not one of them.
    wrong = report["num_tests"] - report["correct"]
    print(f"Error rate= {'-' if report['errors'] else format(100 * wrong / report['num_tests'], '.4g')} %")
    print(f"Time taken= {report['elapsed_s']:.2f} s")
    latencies = (
        f"{name} {'-' if value is None else format(value, '.2f')}" for name, value in report["latency_ms"].items()
    )
    print("Latency in ms:", ", ".join(latencies))
    print(
        f"{report['num_tests']} images, {report['correct']} correct, {report['errors']} errors; "
        f"{report['throughput_rps']:.1f} requests/s at concurrency {report['concurrency']}, "
        f"batch size {report['batch_size']}"
    )
    for error in report["error_list"][:PRINTED_ERRORS]:
        print(f"  {error}")
    if report["errors"] > PRINTED_ERRORS:
        print(f"  and {report['errors'] - PRINTED_ERRORS} more")


def finish(report, json_file=None):
    """Print the report, write it to `json_file` if given, and return the exit status: 0 if all was answered."""
    print_report(report)
    if json_file:
        files.write_json(json_file, report)
    if report["errors"]:
        return command_line.fail(f"requests without an answer: {report['errors']}; expected none")
    return 0
