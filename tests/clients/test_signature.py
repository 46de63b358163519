import pytest

from rnn_serving.clients import signature
from rnn_serving.command_line import UserError


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None, 28, 28), (28, 28)),
        ((1, None, 28), (28, 28)),
        (None, (28, 28)),
        ((None, 784), (784,)),
        ((None, None), (784,)),
        ([None, 28, 28, 1], (28, 28, 1)),
    ],
)
def test_images_are_sent_in_the_shape_that_a_signature_takes(shape, expected):
    assert signature.image_shape("x", "float32", shape) == expected


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("float32", (None, 783), "takes float32 (None, 783) as 'x'; expected float32 (None, 28, 28), (None, 784) or"),
        ("float32", (784,), "takes float32 (784,) as 'x'"),
        ("float32", (None, 28, 28, 3), "takes float32 (None, 28, 28, 3) as 'x'"),
        ("string", (None,), "takes string (None,) as 'x'"),
        ("uint8", None, "takes uint8 any shape as 'x'"),
    ],
)
def test_a_signature_that_does_not_take_images_is_an_error(dtype, shape, message):
    with pytest.raises(UserError) as error:
        signature.image_shape("x", dtype, shape)
    assert message in str(error.value)
