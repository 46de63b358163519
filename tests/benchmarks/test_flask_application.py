import numpy as np

import flask_server
from benchmarks import flask_application
from rnn_serving.endpoint import json_api


def test_pythons_json_stands_in_for_orjson(export_base, test_images, monkeypatch):
    monkeypatch.setattr(json_api, "orjson", flask_application.PlainJSON)
    app, model = flask_application.open_app(export_base)
    images = test_images.images[:5]
    with model:
        client = app.test_client()
        scores = client.post("/", json={"data": images.tolist()}).json["y"]
        expected = flask_server.softmax(model.predict({"x_input": images})["y_output"])
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert client.post("/", data="{", content_type="application/json").status_code == 400
