"""Ask a model server's REST API for the digits in a few images. No TensorFlow."""

from rnn_serving.clients.http_json import direct_session, post_json
from rnn_serving.clients.load import RequestError
from rnn_serving.command_line import UserError
from rnn_serving.dataset import NUM_CLASSES

TIMEOUT_S = 10.0


def ask(server, model_name, split):
    """Send the images of a `Split` to the server at http://HOST:PORT; print each label and the digit answered.

    Raises: UserError if there is no answer.
    """
    for label, probabilities in zip(split.labels, predict(server, model_name, split.images)):
        digit = max(range(NUM_CLASSES), key=lambda digit: probabilities[digit])
        print(f"The image of a {label} is a {digit} with probability {probabilities[digit]:.4f}")


def predict(server, model_name, images):
    """Return the answers, lists of 10 probabilities, to images, float32 (N, 28, 28)."""
    url = f"{server.rstrip('/')}/v1/models/{model_name}:predict"
    try:
        with direct_session() as session:
            # The request is {"instances": [image, ...]}, the answer {"predictions": [[p0, ..., p9], ...]}.
            answer = post_json(session, url, {"instances": images}, TIMEOUT_S)
    except RequestError as error:
        raise UserError(f"{error} from the REST API of a model server") from error
    try:
        return answer["predictions"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{url}: {str(answer)[:100]}; expected JSON with 'predictions'") from error
