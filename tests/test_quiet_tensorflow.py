import json
import os

import pytest
from conftest import run_script

from rnn_serving import quiet_tensorflow

SETTINGS = """
from rnn_serving.quiet_tensorflow import tf
tf.keras.optimizers.Adam(0.1).apply([tf.constant(1.0)], [tf.Variable(1.0)])
config = tf.keras.config
print(config.backend(), config.floatx(), config.epsilon(), config.image_data_format(), config.max_epochs())
"""
DEFAULTS = "tensorflow float32 1e-07 channels_last None\n"


@pytest.mark.parametrize(
    "setting",
    [
        *({"KERAS_BACKEND": value} for value in ("jax", "torch", "numpy", "typo", "")),
        *({"TF_USE_LEGACY_KERAS": value} for value in ("1", "true", "True", "0")),
        {"KERAS_HOME": "/elsewhere"},
        {"KERAS_MAX_EPOCHS": "many"},
        {"KERAS_MAX_STEPS_PER_EPOCH": "1"},
        {"KERAS_NNX_ENABLED": "true"},
    ],
)
def test_a_setting_of_the_user_is_not_there_for_keras(setting):
    environment = {"HOME": "/home/me", **setting}
    quiet_tensorflow._ignore_keras_settings(environment)
    found = {name: value for name, value in environment.items() if name != "HOME"}
    home = os.path.join(os.path.expanduser("~"), ".cache", "rnn-serving", "keras")
    assert found == {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": home}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"backend": "jax", "floatx": "float16", "epsilon": 0.5, "image_data_format": "channels_first"}),
        pytest.param(json.dumps({"backend": "tensorflow", "floatx": "float128"}), marks=pytest.mark.slow),
        pytest.param("[]", marks=pytest.mark.slow),
    ],
)
def test_all_settings_at_once_change_nothing(tmp_path, content):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(content)
    settings = {"HOME": str(tmp_path), "KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "KERAS_MAX_EPOCHS": "x"}
    ended = run_script("-c", SETTINGS, env=os.environ | settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, DEFAULTS, "")
