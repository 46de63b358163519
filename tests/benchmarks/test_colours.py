import pytest

from benchmarks import colours


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("article", "article's Flask server"),
        ("article's Flask server", "article's Flask server"),
        ("flask", "Flask endpoint, 1 worker"),
        ("Flask endpoint", "Flask endpoint, 1 worker"),
        ("flask, 8 workers", "Flask endpoint, 8 workers"),
        ("flask gateway", "Flask gateway"),
        ("rnn_serving.model_server REST", "rnn_serving.model_server, REST"),
        ("rnn_serving.model_server, gRPC", "rnn_serving.model_server, gRPC"),
        ("tensorflow_model_server gRPC", "TensorFlow Serving (C++), gRPC"),
        ("tensorflow_model_server, batching gRPC", "TensorFlow Serving (C++), batching, gRPC"),
        ("another", "another"),
    ],
)
def test_a_server_has_one_name_and_colour_in_all_reports(label, name):
    number, style = colours.style_of(label)
    assert style.name == name
    assert colours.variable(label) == f"var(--s{number})"
    assert f"--s{number}: {style.light};" in colours.style_sheet()
    assert f"--s{number}: {style.dark};" in colours.style_sheet()


def test_servers_and_parts_have_colours_of_their_own():
    servers = {style.light for style in colours.SERVERS.values()}
    parts = {light for light, _ in colours.PARTS.values()}
    assert not servers & parts
    # The C++ server with batching is told by its line.
    assert len(servers) == len(colours.SERVERS) - 2
