"""The ways to call the same model in this process.

TensorFlow is imported inside functions: the processes of the servers import this module before gunicorn forks.
"""

import contextlib
import os


def model_calls(stack, model):
    """Return {name: function from images, float32 (n, 28, 28), to logits, float32 (n, 10)}.

    `model` is a `ServedModel`, the others have its weights; `stack`, an ExitStack, closes them.
    """
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import DEFAULT_SIGNATURE

    loaded = tf.saved_model.load(str(model.directory))
    function, classifier = loaded.signatures[DEFAULT_SIGNATURE], eager_classifier(loaded)
    keras_model = as_keras(classifier)
    run = session_run(stack, model)
    callers_thread = tf.compat.v1.RunOptions(inter_op_thread_pool=-1)
    return {
        "model.predict of Keras": lambda images: keras_model.predict(images, verbose=0),
        "eager call, model(images)": lambda images: classifier(images)[0].numpy(),
        "signature of tf.saved_model.load": lambda images: function(**{INPUT_KEY: tf.constant(images)})[
            OUTPUT_KEY
        ].numpy(),
        "signature by Session.run": run,
        "Session.run in the caller's thread": lambda images: run(images, callers_thread),
        "caller's thread by the C API": lambda images: model.predict({INPUT_KEY: images})[OUTPUT_KEY],
    }


def session_run(stack, model):
    """Return `run(images, options=None) -> logits` in a session of TensorFlow 1 with the model of a `ServedModel`."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import SERVE_TAG

    session = stack.enter_context(contextlib.closing(tf.compat.v1.Session(graph=tf.Graph())))
    with session.graph.as_default():
        tf.compat.v1.saved_model.load(session, [SERVE_TAG], str(model.directory))
    source, target = model.signature.inputs[INPUT_KEY].name, model.signature.outputs[OUTPUT_KEY].name
    return lambda images, options=None: session.run(target, {source: images}, options)


def eager_classifier(loaded):
    """Return an `LSTMClassifier` with the weights of what tf.saved_model.load returned."""
    from rnn_serving.model import LSTMClassifier

    weights = {weight.name: weight for weight in loaded.variables}
    classifier = LSTMClassifier(num_hidden=weights["lstm/recurrent_kernel:0"].shape[0])
    for variable in classifier.variables:
        variable.assign(weights[variable.name])
    return classifier


def as_keras(classifier):
    """Return a Keras model that answers the logits of an `LSTMClassifier`."""
    # A keras.json in the home directory may choose another backend.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    class KerasClassifier(keras.Model):
        def call(self, images):
            return classifier(images)[0]

    return KerasClassifier()
