import pytest

from rnn_serving.model_server import flags
from rnn_serving.model_server.flags import FlagError


def test_the_defaults_are_those_of_tensorflow_model_server():
    options = flags.parse([])
    assert (options.port, options.rest_api_port, options.model_name) == (8500, 0, "default")
    assert options.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--port=9000", "port", 9000),
        ("--model_name=a=b", "model_name", "a=b"),
        ("--model_name=", "model_name", ""),
        ("--version", "version", True),
        ("--version=TRUE", "version", True),
        ("--version=0", "version", False),
    ],
)
def test_a_flag_is_a_name_and_a_value(argument, name, value):
    assert getattr(flags.parse([argument]), name) == value


@pytest.mark.parametrize(
    "argument", ["--port=abc", "--port=", "--version=yes", "--no_such_flag=1", "--port", "-port=1", "9000"]
)
def test_anything_else_is_an_error_that_names_it(argument):
    with pytest.raises(FlagError) as error:
        flags.parse([argument])
    assert argument.split("=")[0] in str(error.value)


def test_the_usage_shows_every_flag_with_its_default():
    for flag in flags.FLAGS:
        assert f"--{flag.name}=" in flags.usage()
