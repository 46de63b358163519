import pytest

from rnn_serving.clients import flask
from rnn_serving.command_line import UserError


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, (28, 28)),
        ({"signature": []}, (28, 28)),
        ({"signature": {"inputs": {"x": {"dtype": 1, "shape": 5}}}}, (28, 28)),
        ({"signature": {"inputs": {"x": {"dtype": "float64", "shape": [None, 784]}}}}, (784,)),
        ({"signature": {"inputs": {"x": {"dtype": "float32", "shape": None}}}}, (28, 28)),
    ],
)
def test_the_shape_of_an_image_is_the_servers_if_it_reports_one(metadata, expected):
    assert flask.served_image_shape("http://h/", metadata) == expected


def test_a_model_that_does_not_take_images_is_an_error_before_anything_is_timed():
    metadata = {"model": "m", "version": 3, "signature": {"inputs": {"x": {"dtype": "float32", "shape": [None, 5]}}}}
    with pytest.raises(UserError, match=r"http://h/: model m version 3 takes float32 \(None, 5\) as 'x'; expected"):
        flask.served_image_shape("http://h/", metadata)
