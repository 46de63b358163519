"""Small SavedModels with signatures other than the tutorial's, for tests of the endpoint."""

from rnn_serving.quiet_tensorflow import tf

v1 = tf.compat.v1


def export(directory, make_tensors, name="serving_default"):
    """Write a SavedModel with one signature; `make_tensors() -> (inputs, outputs)`, tensors by key."""
    with tf.Graph().as_default(), v1.Session() as session:
        inputs, outputs = make_tensors()
        session.run(v1.global_variables_initializer())
        infos = [
            {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in side.items()}
            for side in (inputs, outputs)
        ]
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], {name: v1.saved_model.build_signature_def(*infos)})
        builder.save()
    return directory


def of(shape, function, dtype=tf.float32, output_shape=None):
    """Return a `make_tensors` for `export`: input x of a shape and type, and output y = function(x).

    `output_shape` is the shape of y in the signature; None: the one that TensorFlow infers.
    """

    def make():
        x = v1.placeholder(dtype, shape, "x")
        y = tf.identity(function(x), name="y")
        if output_shape is not None:
            y = v1.placeholder_with_default(y, output_shape)
        return {"x": x}, {"y": y}

    return make


def slowly(x):
    """Return x after a loop of as many iterations as its largest element says, about a million a second."""
    iterations = tf.cast(tf.reduce_max(x), tf.int32)
    count = tf.while_loop(lambda n: n < iterations, lambda n: [n + 1], [tf.constant(0)], parallel_iterations=1)[0]
    return x + 0 * tf.cast(count, tf.float32)


def slow():
    """Return the tensors of a model that returns x [N, 1] unchanged, after as many loop iterations as x says."""
    return of([None, 1], slowly)()


def plus_variable(x, value):
    """Return x plus a variable."""
    return x + v1.get_variable("added", initializer=float(value))


def variable(value):
    """Return a `make_tensors` for `export`: a model that returns x [N] plus a variable."""
    return of([None], lambda x: plus_variable(x, value))
