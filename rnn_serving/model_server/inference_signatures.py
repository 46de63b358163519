"""Check the signatures that Classify, Regress and MultiInference run (classifier.cc, regressor.cc).

The inputs and outputs of a signature decide which calls may run it. Its method name is checked only with
--enable_signature_method_name_check: signatures exported by TensorFlow 2 are all `tensorflow/serving/predict`.
"""

from rnn_serving.model_server.errors import invalid_argument

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def check_classify(signature, check_method):
    """Raise INVALID_ARGUMENT if Classify cannot run a signature."""
    if check_method and signature.method_name != CLASSIFY:
        raise invalid_argument(
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {signature.method_name}"
        )
    _check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    _check_input_key(signature, "classification")
    if not {CLASSES, SCORES} & set(signature.outputs):
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature.definition}"
        )


def check_regress(signature, check_method):
    """Raise INVALID_ARGUMENT if Regress cannot run a signature."""
    if check_method and signature.method_name != REGRESS:
        raise invalid_argument(
            f"Expected regression signature method_name to be {REGRESS}. Was: {signature.method_name}"
        )
    _check_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    _check_input_key(signature, "regression")
    if OUTPUTS not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {signature.definition}")


def _check_one_input(signature):
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def _check_input_key(signature, kind):
    if INPUTS not in signature.inputs:
        raise invalid_argument(f"No {kind} inputs found in SignatureDef: {signature.definition}")
