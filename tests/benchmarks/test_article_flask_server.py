import numpy as np

import flask_server
from benchmarks import server_processes
from rnn_serving.clients.http_json import direct_session
from rnn_serving.saved_model import ServedModel


def post(url, images):
    with direct_session() as session:
        answer = session.post(url, json={"data": images.tolist()}, timeout=10)
    answer.raise_for_status()
    return answer.json()["y"]


def test_it_answers_the_probabilities_of_flask_server(export_base, test_images, monkeypatch):
    images = test_images.images[:5]
    with ServedModel(export_base) as model:
        expected = flask_server.softmax(model.predict({"x_input": images})["y_output"])
    monkeypatch.chdir(export_base.parent)  # a relative path is relative to here, wherever the server runs
    with server_processes.ArticleServer(export_base.name) as url:
        np.testing.assert_allclose(post(url, images), expected, atol=1e-6)
        np.testing.assert_allclose(post(url, images[0]), expected[:1], atol=1e-6)
