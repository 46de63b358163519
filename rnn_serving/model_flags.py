"""The constructor arguments of the model as flags: to try another network, edit model.py alone.

The model is `LSTMClassifier` or, if model.py has no such class, its last one. Each argument but `seed` is a flag of
train_lstm.py, which run.json records and the export reads back. An annotation, `Annotated[type, "help"]`, gives the
type and the help text of a flag; without one, the default gives the type.
"""

import argparse
import inspect
from typing import Annotated, Literal, get_args, get_origin

from rnn_serving import command_line, model
from rnn_serving.command_line import UserError

_PARSERS = {int: command_line.positive_int, float: command_line.positive_float, str: str}


def _model_class():
    """Return the class that the steps train and export."""
    classes = [value for value in vars(model).values() if inspect.isclass(value) and value.__module__ == model.__name__]
    return getattr(model, "LSTMClassifier", classes[-1])


def _parameters():
    parameters = inspect.signature(_model_class(), eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "seed"}


def names():
    """Return the names of the flags."""
    return tuple(_parameters())


def add_flags(parser):
    """Add a flag for each constructor argument of the model."""
    for name, parameter in _parameters().items():
        kind, text = _kind_and_help(name, parameter)
        is_required = parameter.default is parameter.empty
        options = {"required": True} if is_required else {"default": parameter.default}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        else:
            options["type"] = _PARSERS.get(kind, kind)
        parser.add_argument(f"--{name}", help=text, **options)


def _kind_and_help(name, parameter):
    """Return the type and the help text of a constructor argument."""
    if get_origin(parameter.annotation) is Annotated:
        return get_args(parameter.annotation)[:2]
    if parameter.annotation is not parameter.empty:
        return parameter.annotation, f"model argument {name}"
    return type(parameter.default), f"model argument {name}"


def create_model(flags):
    """Return the model that {flag: value} describe; a flag that is missing has the constructor's default.

    Raises: UserError if it has none.
    """
    wanted = inspect.signature(_model_class()).parameters
    missing = [name for name, each in wanted.items() if name not in flags and each.default is each.empty]
    if missing:
        raise UserError(
            f"{_model_class().__name__} in rnn_serving/model.py needs {', '.join(missing)}; expected a default"
        )
    return _model_class()(**{name: flags[name] for name in wanted if name in flags})
