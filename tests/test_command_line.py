import argparse
import subprocess
import sys

import pytest
from conftest import run_script

from rnn_serving import command_line
from rnn_serving.quiet_tensorflow import tf


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        ("positive_int", "1", 1),
        ("seed", "0", 0),
        ("positive_float", "1e-3", 0.001),
        ("fraction", "1", 1.0),
        ("port_number", "65535", 65535),
    ],
)
def test_a_valid_flag_is_parsed_as_a_number(parse, text, value):
    assert getattr(command_line, parse)(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *(("positive_int", text) for text in ("0", "-1", "1.5", "abc", "")),
        *(("seed", text) for text in ("-1", "2147483648")),
        *(("positive_float", text) for text in ("0", "nan", "inf", "-1")),
        *(("fraction", text) for text in ("-0.1", "1.1", "nan")),
        *(("port_number", text) for text in ("-1", "65536", "http")),
    ],
)
def test_an_invalid_flag_is_reported_with_its_value_and_what_was_expected(parse, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{text!r} is not a"):
        getattr(command_line, parse)(text)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("return 0", 0, ""),
        ("return None", 0, ""),
        ("raise command_line.UserError('x is 1; expected 2')", 1, "-c: error: x is 1; expected 2\n"),
        ("open('/nonexistent/file')", 1, "-c: error: /nonexistent/file: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_a_script_exits_with_a_status_and_at_most_one_line_of_error(body, status, error):
    process = run_script("-c", f"from rnn_serving import command_line\ndef main():\n    {body}\ncommand_line.run(main)")
    assert (process.returncode, process.stderr) == (status, error)


def test_a_closed_output_pipe_causes_no_traceback():
    code = "from rnn_serving import command_line; command_line.run(lambda: print('x' * 10_000_000))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


def tensorflow_error(call):
    """Return the error that TensorFlow raises in a call."""
    with pytest.raises(tf.errors.OpError) as raised:
        call()
    return raised.value


@tf.function(autograph=False)
def gather(index):
    return tf.gather(tf.constant([1.0, 2.0]), index) + 1


@tf.function(autograph=False)
def check(value):
    with tf.control_dependencies([tf.debugging.assert_positive(value, message="must be positive")]):
        return tf.identity(value)


def call_python():
    def fail(_):
        raise ValueError("a bad value\nand more of it")

    return tf.function(lambda: tf.numpy_function(fail, [1.0], tf.float32), autograph=False)()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: tf.matmul(tf.ones((2, 3)), tf.ones((2, 3))), "Matrix size-incompatible: In[0]: [2,3], In[1]: [2,3]"),
        (lambda: gather(tf.constant([7])), "indices[0] = 7 is not in [0, 2)"),
        (lambda: check(tf.constant(-1.0)), "must be positive"),
        (
            lambda: tf.reshape(tf.ones(3), [2]),
            "Input to reshape is a tensor with 3 values, but the requested shape has 2",
        ),
        (lambda: tf.io.decode_png(b"no"), "Unknown image file format."),
        (call_python, "ValueError: a bad value"),
        (lambda: tf.train.load_checkpoint("/nonexistent/ckpt"), "Failed to find any matching files for /nonexistent/"),
        (lambda: tf.io.read_file("/nonexistent/file"), "/nonexistent/file; No such file or directory"),
    ],
)
def test_the_reason_of_a_tensorflow_error_is_found(call, reason):
    found = command_line.error_reason(tensorflow_error(call))
    assert reason in found
    assert not found.startswith("{{")
    assert "[Op:" not in found


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("one line", "one line"),
        ("why\n\t [[{{node MatMul}}]]", "why"),
        ("Graph execution error:\n\nwhy\n\t [[{{node RestoreV2}}]]", "why"),
        (
            "Restoring from checkpoint failed. Original error:\n\nGraph execution error:\n\n"
            "Detected at node 'w' defined at (most recent call last):\n  File \"x.py\", line 1, in f\n    call()\n"
            "Node: 'w'\nwhy\n\t [[w]]",
            "why",
        ),
        (
            "Graph execution error:\n\n2 root error(s) found.\n  (0) INVALID_ARGUMENT: why\n\t [[{{node a}}]]\n"
            "  (1) INVALID_ARGUMENT: other\n0 successful operations.",
            "why",
        ),
        ("No OpKernel was registered for X\nRegistered devices: [CPU]\n", "No OpKernel was registered for X"),
        ("\n\nwhy", "why"),
        ("only a heading:", "only a heading:"),
        ("  indented", "indented"),
        ("", "Exception"),
        ("\n \n", "Exception"),
    ],
)
def test_the_reason_is_the_line_that_says_why(message, reason):
    assert command_line.error_reason(Exception(message)) == reason
