import numpy as np
import pytest

from benchmarks import routes
from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError


def test_a_request_without_an_answer_is_an_error():
    with direct_session() as session:
        route = routes.flask_route("a route", "http://127.0.0.1:9/", session)
        with pytest.raises(UserError, match="a route: .*expected an answer"):
            route.ask(np.zeros((1, 28, 28), np.float32))
