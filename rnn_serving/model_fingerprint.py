"""What a model is, for run.json: its class, its variables, and a hash of the graph that its code builds.

The hash covers ops, constants and the use of each variable, but no names: comments, formatting and renamed Python
variables do not change it.
"""

import hashlib

import numpy as np

from rnn_serving.model import INPUT_SPEC
from rnn_serving.quiet_tensorflow import tf

from tensorflow.python.framework import function_def_to_graph

FIELDS = ("class", "variables", "graph", "tensorflow")


def describe(model):
    """Return what run.json records of a model; `graph` is comparable for the same version of TensorFlow."""
    return {
        "class": type(model).__name__,
        "variables": [[variable.name, list(variable.shape)] for variable in model.variables],
        "graph": _hash_model(model)[:16],
        "tensorflow": tf.__version__,
    }


def was_edited(before, now):
    """Return whether two descriptions show that the model's code changed; False if they are not comparable."""
    return bool(before) and before["tensorflow"] == now["tensorflow"] and before["graph"] != now["graph"]


def _hash_model(model):
    traced = tf.function(model, [INPUT_SPEC], autograph=False).get_concrete_function()
    variables = {id(variable.handle): f"variable {number}" for number, variable in enumerate(model.variables)}
    captured = [variables.get(id(tensor)) or _constant(tensor) for tensor in traced.captured_inputs]
    labels = dict(zip(_ops(traced.inputs), ["images", *captured]))
    library = {function.signature.name: function for function in traced.graph.as_graph_def().library.function}
    return _hash_graph(traced.graph, labels, traced.outputs, library)


def _constant(tensor):
    """Return the label of something that the call uses besides the model's variables: its value, if it has one."""
    return "resource" if tensor.dtype == tf.resource else _hash(tensor.shape, np.asarray(tensor).tolist())


def _hash_graph(graph, labels, outputs, library):
    """Return a hash of what a graph does; `labels` maps the ops of its inputs to names."""
    hashes = {}
    for op in graph.get_operations():  # each comes after its inputs
        hashes[op] = _hash(
            op.type,
            labels.get(op),
            [(name, _attribute(value, library)) for name, value in sorted(op.node_def.attr.items()) if name[0] != "_"],
            [(hashes[tensor.op], tensor.value_index) for tensor in op.inputs],
        )
    side_effects = sorted(value for op, value in hashes.items() if op.op_def.is_stateful)
    return _hash([(hashes[tensor.op], tensor.value_index) for tensor in outputs], side_effects)


def _attribute(value, library):
    """Return what an attribute of an op holds; of a function, whose name is numbered, what it does."""
    function = library.get(value.func.name)
    if function is None:
        return value.SerializeToString(deterministic=True)
    graph = function_def_to_graph.function_def_to_graph(function)
    labels = {op: f"argument {number}" for number, op in enumerate(_ops(graph.inputs))}
    return _hash_graph(graph, labels, graph.outputs, library)


def _ops(tensors):
    return [tensor.op for tensor in tensors]


def _hash(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()
