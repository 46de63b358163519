"""The inputs of a predict request, as rows or as columns (json_tensor.cc)."""

import numpy as np

from rnn_serving.model_server import json_text
from rnn_serving.model_server.errors import ServingError, invalid_argument
from rnn_serving.model_server.json_tensors import array_of, array_of_plain_values, flatten, to_array
from rnn_serving.model_server.json_values import format_error, is_base64, signature_name
from rnn_serving.number_lists import split_number_lists

ROW, COLUMNAR = "instances", "inputs"
# What stands for numbers that were read apart from the rest of a request, and its JSON; and how deep lists may be.
NUMBERS, NUMBERS_JSON, MAX_RANK = "\0numbers", b'"\\u0000numbers"', 8


def parse(document, signature, name):
    """Return (format, {alias: array} of the inputs) of a predict request; the format is ROW or COLUMNAR.

    Raises: ServingError.
    """
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if ROW in document and COLUMNAR in document:
        raise format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if ROW in document:
        return ROW, _from_rows(document, signature)
    if COLUMNAR in document:
        return COLUMNAR, _from_columns(document[COLUMNAR], signature)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def parse_numbers(body):
    """Return (document, array) of a request with one array of plain numbers, for which NUMBERS stands in the document.

    Returns None for any other request.
    """
    found = split_number_lists(body, MAX_RANK)
    if found is None or NUMBERS_JSON in found[0] + found[2]:
        return None
    before, numbers, after = found
    try:
        document = json_text.parse(before + NUMBERS_JSON + after)
        signature_name(document)
    except ServingError:
        return None  # the error quotes the document, or a place in it
    return document, numbers


def layout_of_numbers(document, signature):
    """Return ROW or COLUMNAR if NUMBERS are the one float input of a signature, None if the request is another one."""
    inputs = [(alias, info.dtype) for alias, info in signature.inputs.items()]
    if len(inputs) != 1 or inputs[0][1] != "float32" or (ROW in document) == (COLUMNAR in document):
        return None
    if document.get(ROW) == NUMBERS:
        return ROW
    return COLUMNAR if document.get(COLUMNAR) in (NUMBERS, {inputs[0][0]: NUMBERS}) else None


def from_numbers(numbers, signature):
    """Return {alias: array} of a signature's one float input."""
    with np.errstate(over="ignore"):
        return {alias: numbers.astype(np.float32) for alias in signature.inputs}


def _from_rows(document, signature):
    rows = document[ROW]
    if not isinstance(rows, list):
        raise format_error(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise format_error(document, "No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(signature.inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if _is_named(rows[0]):
        return _from_named_rows(rows, signature)
    (alias, info), *_ = signature.inputs.items()
    return {alias: _from_plain_rows(rows, info.dtype)}


def _from_plain_rows(rows, dtype):
    array = array_of_plain_values(rows, dtype)
    if array is not None:
        return array
    column = _Column(dtype)
    for index, row in enumerate(rows):
        if _is_named(row):
            raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        _add(column, row, f"Failed to process element: {index} of 'instances' list.")
    return column.array()


def _from_named_rows(rows, signature):
    columns = {alias: _Column(info.dtype) for alias, info in signature.inputs.items()}
    for index, row in enumerate(rows):
        _add_named_row(columns, row, index)
    return {alias: column.array() for alias, column in columns.items()}


def _add_named_row(columns, row, index):
    if not _is_named(row):
        raise invalid_argument(f"Expecting object but got list at item {index} of input list")
    for alias, value in row.items():
        where = f"Failed to process element: {index} key: {alias} of 'instances' list."
        if alias not in columns:
            error = invalid_argument(f"JSON object: does not have named input: {alias}")
            raise invalid_argument(f"{where} Error: {error}")
        _add(columns[alias], value, where)
    if set(row) != set(columns):
        raise invalid_argument(
            f"Failed to process element: {index} of 'instances' list. JSON object: {json_text.quote(row)} "
            f"keys must be equal to: {','.join(sorted(columns))}"
        )


def _add(column, value, where):
    try:
        column.add(value)
    except ServingError as error:
        raise invalid_argument(f"{where} Error: {error}") from error


def _from_columns(value, signature):
    if not isinstance(value, dict) or is_base64(value):
        if len(signature.inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((alias, info),) = signature.inputs.items()
        return {alias: array_of(value, info.dtype)}
    for alias in signature.inputs:
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: array_of(value[alias], info.dtype) for alias, info in signature.inputs.items()}


def _is_named(row):
    """Return whether a row is an object of named values; `{"b64": ...}` is a value."""
    return isinstance(row, dict) and not is_base64(row)


class _Column:
    """One input of a request in rows; its values have the same shape in every row."""

    def __init__(self, dtype):
        self.dtype, self.shape, self.flat, self.rows = dtype, None, [], 0

    def add(self, value):
        """Append the value of one row.

        Raises: ServingError if it does not fit the dtype or the shape of the first row.
        """
        flat, shape = flatten(value, self.dtype)
        if self.shape is None:
            self.shape, self.size = shape, len(flat)
        elif len(flat) != self.size:
            raise invalid_argument(f"Expecting tensor size: {self.size} but got: {len(flat)}")
        elif shape != self.shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.shape)} but got: {_shape_text(shape)}")
        self.flat += flat
        self.rows += 1

    def array(self):
        """Return the values of all rows as one array."""
        return to_array(self.flat, self.dtype).reshape(self.rows, *self.shape)


def _shape_text(shape):
    return f"[{','.join(map(str, shape))}]"
