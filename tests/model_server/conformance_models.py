"""Small SavedModels for the conformance and fuzzing tests: each covers one part of the API."""

import shutil

from google.protobuf import text_format

from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))

# The dtypes of the identity signatures `same_*` of the model `kinds`.
SAME_DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool", "string"]
SAME_DTYPES += ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]

v1 = tf.compat.v1


def build_all(directory):
    """Write every model to `directory / NAME / VERSION`; the versions of `broken` and `file` do not load."""
    build_half(directory)
    _export(directory / "kinds" / "00000007", _kinds)
    _export(directory / "judge" / "1", _judge)
    _export(directory / "counter" / "1", _counter)
    tf.saved_model.save(halving := Halving(), directory / "modern" / "1", halving.signatures())
    _export_odd(directory / "odd" / "1")
    _copy_with_batching(directory / "kinds" / "00000007", directory / "padded" / "1", PADDED)
    _copy_with_batching(directory / "kinds" / "00000007", directory / "patient" / "1", PATIENT)
    _copy_with_batching(directory / "kinds" / "00000007", directory / "split" / "1", SPLIT)
    rewrite_as_text(directory / "half" / "1", directory / "as_text" / "1")
    (directory / "broken" / "1").mkdir(parents=True)
    (directory / "file").mkdir()
    (directory / "file" / "7").touch()
    (directory / "sparse").mkdir()
    for name in ("tmp-9", "latest", "9.5", "0x9"):
        (directory / "sparse" / name).mkdir()
    shutil.copytree(directory / "half" / "1", directory / "sparse" / "00000004")


def build_half(directory):
    """Write the two versions of the model `half`, which answer 3 and 4 for 2; return their base path."""
    for version, added in ((1, 2.0), (2, 3.0)):
        _export(directory / "half" / str(version), _half_plus, added)
    return directory / "half"


# With --enable_per_model_batching_parameters, these replace all of the server's parameters.
PADDED = """
max_batch_size { value: 4 } batch_timeout_micros { value: 300000 } max_enqueued_batches { value: 9 }
allowed_batch_sizes: 3 allowed_batch_sizes: 4 pad_variable_length_inputs: true
"""
PATIENT = "batch_timeout_micros { value: 900000 }"
SPLIT = """
max_batch_size { value: 100 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 32 }
"""


def _copy_with_batching(source, target, parameters):
    shutil.copytree(source, target)
    (target / "batching_params.pbtxt").write_text(parameters)


def rewrite_as_text(source, target):
    """Copy a version, with saved_model.pbtxt instead of saved_model.pb."""
    shutil.copytree(source, target)
    binary = target / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(binary.read_bytes()))
    binary.with_suffix(".pbtxt").write_text(text)
    binary.unlink()


def _export(directory, make_signatures, *arguments):
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = make_signatures(*arguments)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def _signature(inputs, outputs, method=PREDICT):
    infos = [{name: v1.saved_model.build_tensor_info(t) for name, t in side.items()} for side in (inputs, outputs)]
    return v1.saved_model.build_signature_def(*infos, method)


def _placeholder(name, dtype=tf.float32, shape=(None,)):
    return v1.placeholder(dtype, shape, name)


def _half_plus(added):
    """`predict`, `regress` and `classify` of half of x plus `added`."""
    x = _placeholder("x", shape=[None, 1])
    examples, feature = _parsed("examples")
    y = tf.add(x * 0.5, added, name="y")
    of_examples = tf.add(feature * 0.5, added, name="of_examples")
    return {
        "serving_default": _signature({"x": x}, {"y": y}),
        "regress": _signature({"inputs": examples}, {"outputs": of_examples}, REGRESS),
        "classify": _signature({"inputs": examples}, {"scores": of_examples}, CLASSIFY),
    }


def _parsed(name):
    """Return a placeholder for serialized Examples, and their required feature x, float (N, 1)."""
    examples = _placeholder(name, tf.string)
    features = {"x": tf.io.FixedLenFeature([1], tf.float32)}
    return examples, tf.io.parse_example(examples, features, name="parse_" + name)["x"]


def _kinds():
    """Predict signatures with every dtype and every form of inputs and outputs."""
    a, b, x = _placeholder("a"), _placeholder("b"), _placeholder("x")
    matrix = _placeholder("matrix", shape=[None, 2])
    shapeless = _placeholder("shapeless", shape=None)
    text = _placeholder("text", tf.string)
    pair = {"sum": tf.add(a, b, name="sum"), "diff": tf.subtract(a, b, name="diff")}
    twice = tf.concat([x, x], 0, name="twice")
    copy = tf.identity(text, name="copy")
    defaulted = _signature({"a": a, "b": b}, pair)
    defaulted.defaults["b"].CopyFrom(tf.make_tensor_proto([10.0]))
    signatures = {
        "serving_default": _signature({"a": a, "b": b}, pair),
        "defaulted": defaulted,
        "odd_method": _signature({"x": x}, {"y": tf.identity(x)}, "odd"),
        "any": _signature({"x": shapeless}, {"y": tf.identity(shapeless)}),
        "total": _signature({"x": x}, {"y": tf.reduce_sum(x, name="total")}),
        "uneven": _signature({"x": x}, {"once": tf.identity(x), "twice": twice}),
        "twice": _signature({"x": x}, {"y": twice}),
        "rows": _signature({"x": x}, {"y": x * 0 + tf.cast(tf.size(x), tf.float32)}),
        "sum_rows": _signature({"x": x}, {"y": x * 0 + tf.reduce_sum(x)}),
        "product": _signature({"x": matrix}, {"y": tf.matmul(matrix, [[1.0], [2.0]], name="product")}),
        "nothing": _signature({}, {"y": tf.constant([5.0])}),
        "to_half": _signature({"x": x}, {"y": tf.cast(x, tf.float16)}),
        "bytes": _signature({"x_bytes": text}, {"y_bytes": copy}),
        "both": _signature({"x": text}, {"plain": copy, "raw_bytes": tf.identity(text)}),
        "slow": _signature({"x": x}, {"y": _slowly(x)}),
    }
    for dtype in SAME_DTYPES:
        same = _placeholder("in_" + dtype, dtype)
        signatures["same_" + dtype] = _signature({"x": same}, {"y": tf.identity(same, name="out_" + dtype)})
    return signatures


def _slowly(x):
    """Return x after a loop with as many iterations as its largest element."""
    iterations = tf.cast(tf.reduce_max(x), tf.int32)
    count = tf.while_loop(lambda n: n < iterations, lambda n: [n + 1], [tf.constant(0)], parallel_iterations=1)[0]
    return x + 0 * tf.cast(count, tf.float32)


def _judge():
    """Classify and Regress signatures, valid and invalid."""
    examples, x = _parsed("examples")
    other_examples, other_x = _parsed("other_examples")
    floats = _placeholder("floats", shape=[None, 1])
    scores = tf.concat([x, 2 * x], 1, name="scores")
    three = tf.concat([x, x, x], 1, name="three")
    classes = tf.repeat([["no", "yes"]], tf.size(x), 0, name="classes")
    flat = tf.reshape(x + 1, [-1], name="flat")
    column = tf.add(x, 1, name="column")
    fixed = tf.zeros([3, 2], name="fixed")
    whole = tf.cast(x, tf.int32, name="whole")
    context = {"x": tf.io.FixedLenFeature([1], tf.float32), "c": tf.io.FixedLenFeature([1], tf.string)}
    with_context = tf.io.parse_example(examples, context, name="parse_context")["c"]
    values = tf.io.parse_example(examples, {"n": tf.io.FixedLenFeature([2], tf.int64)}, name="parse_whole")["n"]

    def classify(inputs=None, **outputs):
        return _signature(inputs or {"inputs": examples}, outputs, CLASSIFY)

    def regress(inputs=None, **outputs):
        return _signature(inputs or {"inputs": examples}, outputs, REGRESS)

    return {
        "serving_default": classify(classes=classes, scores=scores),
        "only_scores": classify(scores=scores),
        "only_classes": classify(classes=classes),
        "context": classify(classes=with_context),
        "wholes": classify(scores=tf.cast(values, tf.float32)),
        "method_predict": _signature({"inputs": examples}, {"scores": scores}),
        "two_inputs": classify({"inputs": examples, "more": other_examples}, scores=scores),
        "wrong_input": classify({"examples": examples}, scores=scores),
        "float_input": classify({"inputs": floats}, scores=tf.identity(floats)),
        "wrong_output": classify(logits=scores),
        "three_outputs": classify(classes=classes, scores=scores, logits=scores),
        "flat_scores": classify(scores=flat),
        "flat_classes": classify(classes=tf.as_string(flat)),
        "float_classes": classify(classes=scores),
        "whole_scores": classify(scores=whole),
        "fixed_scores": classify(scores=fixed),
        "fixed_classes": classify(classes=tf.as_string(fixed)),
        "unequal": classify(classes=classes, scores=three),
        "regress": regress(outputs=flat),
        "regress_column": regress(outputs=column),
        "regress_other": regress({"inputs": other_examples}, outputs=other_x),
        "regress_wide": regress(outputs=scores),
        "regress_fixed": regress(outputs=tf.zeros([3])),
        "regress_whole": regress(outputs=whole),
        "regress_two_inputs": regress({"inputs": examples, "more": other_examples}, outputs=flat),
        "regress_wrong_input": regress({"examples": examples}, outputs=flat),
        "regress_wrong_output": regress(value=flat),
        "regress_two_outputs": regress(outputs=flat, more=flat),
    }


def _odd():
    """Signatures with outputs of any number of rows, and those that `_export_odd` changes."""
    x = _placeholder("x")
    examples, feature = _parsed("examples")
    y, positive = tf.identity(x, name="y"), tf.boolean_mask(x, x > 0)
    return {
        "serving_default": _signature({"x": x}, {"y": y}),
        "positive": _signature({"x": x}, {"y": positive}),
        "positive_columns": _signature({"x": x}, {"wide": tf.stack([positive, positive], 1), "y": positive}),
        "some": _signature({"x": x}, {"all": tf.identity(x), "positive": positive}),
        "classify": _signature({"inputs": examples}, {"scores": feature * 2}, CLASSIFY),
        "regress": _signature({"inputs": examples}, {"outputs": feature * 3}, REGRESS),
    }


# What TensorFlow writes for ragged and sparse tensors, and what other programs write: tensors that the graph lacks.
_RAGGED = meta_graph_pb2.TensorInfo(dtype="DT_FLOAT", composite_tensor={"components": [{"name": "y:0"}]})
_SPARSE = meta_graph_pb2.TensorInfo(dtype="DT_FLOAT", coo_sparse={"values_tensor_name": "y:0"})
ODD_TENSORS = {
    "ragged": _RAGGED,
    "sparse": _SPARSE,
    "nameless": meta_graph_pb2.TensorInfo(dtype="DT_FLOAT"),
    "empty": meta_graph_pb2.TensorInfo(),
    "lacking": meta_graph_pb2.TensorInfo(name="nothing:0", dtype="DT_FLOAT"),
    "no_such_output": meta_graph_pb2.TensorInfo(name="y:7", dtype="DT_FLOAT"),
}


def _export_odd(directory):
    """Write `_odd` and, for each odd tensor, signatures with it as an output, an input, the scores and the values."""
    _export(directory, _odd)
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signatures = saved.meta_graphs[0].signature_def
    for kind, info in ODD_TENSORS.items():
        for name, source, side, alias in (
            (f"{kind}_output", "serving_default", "outputs", "odd"),
            (f"{kind}_input", "serving_default", "inputs", "x"),
            (f"{kind}_classify", "classify", "outputs", "scores"),
            (f"{kind}_regress", "regress", "outputs", "outputs"),
        ):
            signatures[name].CopyFrom(signatures[source])
            getattr(signatures[name], side)[alias].CopyFrom(info)
    path.write_bytes(saved.SerializeToString())
    _write_warmup(directory, "ragged_output", "y")


def _write_warmup(directory, signature, output):
    """Write one warm-up request, for an output of a signature."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    request.output_filter.append(output)
    (directory / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(directory / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def _counter():
    """A variable, which keeps its value while its version is loaded."""
    count = v1.get_variable("count", initializer=0.0)
    added = v1.assign_add(count, 1.0)
    return {
        "read": _signature({}, {"count": tf.identity(count.read_value(), name="read")}),
        "add": _signature({}, {"count": tf.identity(added, name="add")}),
    }


class Halving(tf.Module):
    """A TensorFlow 2 export: every signature has the method predict, and one entry is not a real signature."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def halve(self, x):
        """Return half of x plus 2."""
        return {"y": x * 0.5 + 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def score(self, inputs):
        """Return the output that Classify requires."""
        return {"scores": tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"] * 0.5 + 2}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def value(self, inputs):
        """Return the output that Regress requires."""
        return {"outputs": self.score(inputs)["scores"]}

    def signatures(self):
        """Return the functions by name."""
        return {"serving_default": self.halve, "classify": self.score, "regress": self.value}
