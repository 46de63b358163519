"""The configuration of a server: what is refused, what it leaves behind, and what serves after it."""

import contextlib
import logging
import shutil
import threading
import time

import conformance_models
import numpy as np
import pytest
from google.protobuf import text_format

from rnn_serving.model_server import flags, text_protos
from rnn_serving.model_server.core import ServerCore
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.options import complete

from tensorflow_serving.apis import model_pb2

LIMIT_S = 20
POLL = "--model_config_file_poll_wait_seconds=1"
LABELS = "--allow_version_labels_for_unavailable_models"
PLATFORM, ALL = 'model_platform: "tensorflow"', "model_version_policy { all {} }"


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A base path with the versions 1 and 2, which answer 3 and 4 for the 2 of `answer`."""
    return conformance_models.build_half(tmp_path_factory.mktemp("models"))


@pytest.fixture
def base(half, tmp_path):
    """A private copy of it, with version 1 only."""
    shutil.copytree(half / "1", tmp_path / "base" / "1")
    return tmp_path / "base"


@pytest.fixture
def config_file(tmp_path):
    """The path of the configuration file."""
    return tmp_path / "models.config"


@pytest.fixture
def new_core(config_file):
    """A function that returns a ServerCore, not yet started, for a configuration file and flags."""
    with contextlib.ExitStack() as stack:

        def create(text, *argv):
            config_file.write_text(text)
            core = ServerCore(complete(flags.parse([f"--model_config_file={config_file}", *argv])))
            stack.callback(core.stop)
            limit = threading.Timer(3 * LIMIT_S, core.stop_waiting)  # a start may wait for ever
            stack.callback(limit.cancel)
            limit.start()
            return core

        yield create


@pytest.fixture
def start(new_core):
    """A function that starts a ServerCore with models and flags."""

    def run(text, *argv):
        core = new_core(text, *argv)
        core.start()
        return core

    return run


def model(name, base_path, *settings):
    """Return the text of a ModelConfig."""
    return f'config {{ name: "{name}" base_path: "{base_path}" {" ".join(settings or (PLATFORM,))} }}'


def models(*configs):
    """Return the text of a ModelServerConfig."""
    return f"model_config_list {{ {' '.join(configs)} }}"


def parse(text):
    return text_format.Parse(text, text_protos.ModelServerConfig())


def reload_for(core, text, seconds=0.0):
    """Reload, and stop waiting after some seconds, as a call whose deadline passes."""
    deadline = time.monotonic() + seconds
    core.reload(parse(text), lambda: time.monotonic() < deadline)


def states(core, name):
    """Return {version: name of the state} of a model, {} for an unknown one."""
    try:
        found = core.status(model_pb2.ModelSpec(name=name)).model_version_status
    except ServingError:
        return {}
    return {one.version: one.State.Name(one.state) for one in found}


def answer(core, name, **spec):
    """Return half of 2 plus what the version adds, or the message of the error."""
    request = model_pb2.ModelSpec(name=name, **spec)
    try:
        with core.lookup(request) as servable:
            signature = servable.signatures["serving_default"]
            return float(servable.run(signature, {"x": np.array([[2.0]], np.float32)}, None)["y"][0, 0])
    except ServingError as error:
        return error.message


def eventually(ask, wanted):
    deadline = time.monotonic() + LIMIT_S
    while (got := ask()) != wanted:
        assert time.monotonic() < deadline, f"{got}, expected {wanted}"
        time.sleep(0.02)


TYPES = "ModelServerConfig::model_type (deprecated) {} ModelServerConfig::model_platform, model name is m"
NO_SCHEME = (
    "File system scheme '{0}' not implemented (file: '{0}://bucket/m'): {0}://bucket/m: unknown scheme '{0}'; "
    "expected a path, file://, s3://, gs:// or another scheme of fsspec"
)
NOT_ABSOLUTE = "Expected model m to have an absolute path or URI; got base_path()={}"
REFUSED = {
    "type and platform": (
        model("m", "/m", PLATFORM, "model_type: TENSORFLOW"),
        "INVALID_ARGUMENT: Illegal setting both " + TYPES.format("and"),
    ),
    "neither": (model("m", "/m", ""), "INVALID_ARGUMENT: Illegal setting neither " + TYPES.format("nor")),
    "another type": (
        model("m", "/m", "model_type: OTHER"),
        "INVALID_ARGUMENT: ModelServerConfig::model_type choice 2 not supported.",
    ),
    "a type that is not known": (
        model("m", "/m", "model_type: 7"),
        "INVALID_ARGUMENT: ModelServerConfig::model_type choice 7 not supported.",
    ),
    "another type and a platform": (
        model("m", "/m", PLATFORM, "model_type: OTHER"),
        "INVALID_ARGUMENT: Illegal setting both " + TYPES.format("and"),
    ),
    "another platform": (
        model("m", "/m", 'model_platform: "caffe"'),
        "INVALID_ARGUMENT: Model m requests unsupported platform caffe",
    ),
    "a scheme": (model("m", "no.such://bucket/m"), "UNIMPLEMENTED: " + NO_SCHEME.format("no.such")),
    "a scheme in capitals": (model("m", "FILE://bucket/m"), "UNIMPLEMENTED: " + NO_SCHEME.format("FILE")),
    "a relative path": (model("m", "a/m"), "INVALID_ARGUMENT: " + NOT_ABSOLUTE.format("a/m")),
    "not quite a URI": (model("m", "file:/a/m"), "INVALID_ARGUMENT: " + NOT_ABSOLUTE.format("file:/a/m")),
    "a name twice": (
        model("m", "/m") + model("m", "/m"),
        "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_configuration_is_refused_at_the_start_and_in_a_reload(new_core, start, half, name):
    config, message = REFUSED[name]
    with pytest.raises(ServingError) as error:
        new_core(models(config)).start()
    assert str(error.value) == message
    core = start(models(model("half", half)))
    with pytest.raises(ServingError) as error:
        core.reload(parse(models(config)))
    assert str(error.value) == message
    assert (answer(core, "half"), states(core, "m")) == (4.0, {})
    core.reload(parse(models(model("half", half), model("m", half))))
    assert (answer(core, "half"), answer(core, "m")) == (4.0, 4.0)


@pytest.mark.parametrize("settings", ["model_type: TENSORFLOW", "model_type: 1", PLATFORM])
def test_a_type_or_a_platform_is_enough(start, half, settings):
    core = start(models(model("m", half, settings)))
    assert answer(core, "m") == 4.0
    other = PLATFORM if settings != PLATFORM else "model_type: TENSORFLOW"
    core.reload(parse(models(model("m", half, other, ALL))))
    eventually(lambda: answer(core, "m", version={"value": 1}), 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["", "model_type: OTHER", f"{PLATFORM} model_type: TENSORFLOW"])
def test_a_new_model_with_a_wrong_platform_leaves_the_new_labels_behind(start, half, settings):
    core = start(models(model("half", half, PLATFORM, ALL)))
    eventually(lambda: states(core, "half"), {1: "AVAILABLE", 2: "AVAILABLE"})
    labelled = model("half", half, PLATFORM, 'version_labels { key: "old" value: 1 }')
    with pytest.raises(ServingError):
        core.reload(parse(models(labelled, model("m", half, settings))))
    assert answer(core, "half", version_label="old") == 3.0
    time.sleep(1.2)  # one poll for versions
    assert (states(core, "half"), states(core, "m")) == ({1: "AVAILABLE", 2: "AVAILABLE"}, {})


@pytest.mark.parametrize("settings", ["", "model_type: OTHER", f"{PLATFORM} model_type: TENSORFLOW"])
def test_a_served_model_with_a_wrong_platform_leaves_nothing_behind(start, half, settings):
    core = start(models(model("half", half)))
    labelled = model("half", half, settings, 'version_labels { key: "new" value: 2 }')
    with pytest.raises(ServingError):
        core.reload(parse(models(labelled)))
    assert answer(core, "half", version_label="new") == "Unrecognized servable version label: new"


LOGGING = [
    "logging_config {}",
    "logging_config { sampling_config { sampling_rate: 0.1 } }",
    'logging_config { log_collector_config { type: "file" filename_prefix: "/tmp/requests" } }',
]


@pytest.mark.parametrize("logging_config", LOGGING)
def test_logs_of_requests_are_refused(new_core, start, half, logging_config):
    refusal = "INVALID_ARGUMENT: No request-logger-creator provided."
    logged = models(model("half", half), model("m", half, PLATFORM, logging_config))
    with pytest.raises(ServingError) as error:
        new_core(logged).start()
    assert str(error.value) == refusal
    core = start(models(model("half", half)))
    with pytest.raises(ServingError) as error:
        core.reload(parse(logged))
    assert str(error.value) == refusal
    assert (answer(core, "half"), answer(core, "m")) == (4.0, 4.0)  # as in C++, which notices it after the models


def test_a_custom_configuration_is_refused(new_core):
    text = "custom_model_config { [type.googleapis.com/google.protobuf.Int64Value] { value: 3 } }"
    with pytest.raises(ServingError, match="UNIMPLEMENTED: ModelServer does not yet support custom model config."):
        new_core(text).start()


# Configurations that serve nothing


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "Taking no action for empty config."),
        ("model_config_list {}", "The configuration lists no model: nothing is served"),
    ],
)
def test_a_configuration_without_models_says_so_and_starts(start, half, caplog, text, line):
    core = start(text, POLL)
    assert [line in record.message for record in caplog.records] == [True]
    core.reload(parse(models(model("half", half))))
    assert answer(core, "half") == 4.0


def test_a_policy_without_versions_says_so_once(start, half, caplog):
    core = start(models(model("half", half)))
    nothing = models(model("half", half, PLATFORM, "model_version_policy { specific {} }"))
    for _ in range(2):
        core.reload(parse(nothing))
    eventually(lambda: states(core, "half"), {2: "END"})
    line = "Model half: model_version_policy { specific {} } selects no version: nothing is served"
    assert [record.message for record in caplog.records].count(line) == 1


# Labels


@pytest.mark.slow
def test_labels_of_absent_versions_do_not_hold_up_a_polled_file(start, half, base, config_file, caplog):
    absent = 'version_labels { key: "next" value: 2 } version_labels { key: "far" value: 9 }'
    core = start(models(model("m", base, PLATFORM, ALL, absent)), LABELS, POLL)
    time.sleep(2.2)  # two polls
    assert answer(core, "m", version_label="next") == "Servable not found for request: Specific(m, 2)"
    missing = model("missing", base / "nowhere")  # nor does a model that is not there
    config_file.write_text(models(model("m", base, PLATFORM, ALL, absent), model("other", half)))
    eventually(lambda: answer(core, "other"), 4.0)
    config_file.write_text(models(model("m", base, PLATFORM, ALL, absent), missing))
    time.sleep(1.2)
    config_file.write_text(models(model("m", base, PLATFORM, ALL), model("third", half)))
    eventually(lambda: answer(core, "third"), 4.0)
    config_file.write_text(models(model("m", base, PLATFORM, ALL, absent)))
    shutil.copytree(half / "2", base / "2")
    eventually(lambda: answer(core, "m", version_label="next"), 4.0)
    assert "which is not currently available for inference" not in caplog.text


@pytest.mark.parametrize("labels_flag", [True, False])
def test_a_label_that_stays_needs_its_version_only_without_the_flag(start, half, base, labels_flag):
    shutil.copytree(half / "2", base / "2")
    labelled = models(model("m", base, PLATFORM, ALL, 'version_labels { key: "new" value: 2 }'))
    core = start(models(model("m", base, PLATFORM, ALL)), *[LABELS] * labels_flag)
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "AVAILABLE"})
    core.reload(parse(labelled))
    shutil.rmtree(base / "2")
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "END"})
    refusal = pytest.raises(ServingError, match="Request to assign label to version 2 of model m, which is not curr")
    with contextlib.nullcontext() if labels_flag else refusal:
        core.reload(parse(labelled))


def test_a_label_that_moves_needs_an_available_version(start, half):
    core = start(models(model("m", half, PLATFORM, 'version_labels { key: "a" value: 7 }')), LABELS)
    with pytest.raises(ServingError, match="Request to assign label to version 8 of model m, which is not currently"):
        core.reload(parse(models(model("m", half, PLATFORM, 'version_labels { key: "a" value: 8 }'))))
    core.reload(parse(models(model("m", half, PLATFORM, 'version_labels { key: "a" value: 2 }'))))
    assert answer(core, "m", version_label="a") == 4.0


# Reloads that time out


def no_directory(base):
    return base.parent / "nowhere"


def no_version(base):
    (base.parent / "empty").mkdir()
    return base.parent / "empty"


def broken_version(base):
    """A version of another number that is retried for minutes."""
    (base.parent / "broken" / "5").mkdir(parents=True)
    return base.parent / "broken"


def broken_version_of_the_same_number(base):
    (base.parent / "broken" / "1").mkdir(parents=True)
    return base.parent / "broken"


@pytest.mark.parametrize("wrong", [no_directory, no_version, broken_version, broken_version_of_the_same_number])
@pytest.mark.parametrize("others", [(), ("half",)], ids=["alone", "beside another"])
def test_after_a_reload_that_timed_out_the_next_waits_until_the_model_answers(start, half, base, wrong, others):
    core = start(models(model("half", half)))
    kept = [model(name, half) for name in others]
    reload_for(core, models(*kept, model("m", wrong(base))))
    reload_for(core, models(*kept, model("m", base)), LIMIT_S)
    assert answer(core, "m") == 3.0
    assert all(answer(core, name) == 4.0 for name in others)


def test_a_reload_that_timed_out_waits_again_for_the_same_path(start, half, base):
    core = start(models(model("half", half)))
    late = models(model("half", half), model("m", base.parent / "late"))
    reload_for(core, late)
    threading.Timer(0.5, shutil.copytree, (base, base.parent / "late")).start()
    reload_for(core, late, LIMIT_S)
    assert answer(core, "m") == 3.0


def test_a_model_that_failed_fails_the_next_reload_too(start, half, base):
    core = start(models(model("half", half)), "--max_num_load_retries=0")
    failing = models(model("half", half), model("m", broken_version(base)))
    for _ in range(2):
        with pytest.raises(ServingError, match=r"1 model\(s\) did not become available: \{\{\{name: m version: 5\}"):
            reload_for(core, failing, LIMIT_S)
    core.reload(parse(models(model("half", half), model("m", base))))
    assert answer(core, "m") == 3.0


def test_a_reload_does_not_wait_for_a_model_that_was_available_before(start, half, base):
    core = start(models(model("m", base)))
    core.reload(parse(models(model("m", base.parent / "nowhere"))))
    assert answer(core, "m") == 3.0


def test_a_stop_ends_a_reload_that_waits(start, half, base):
    core = start(models(model("half", half)))
    threading.Timer(0.3, core.stop_waiting).start()
    with pytest.raises(ServingError, match="UNAVAILABLE: The server stops"):
        reload_for(core, models(model("m", base.parent / "nowhere")), LIMIT_S)


# Versions that do not load


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["latest 1", "latest 2", "all"])
def test_a_good_version_behind_a_broken_one_loads_at_once(start, half, base, policy):
    """With the default flags, the broken one is tried again for five minutes."""
    settings = ALL if policy == "all" else f"model_version_policy {{ latest {{ num_versions: {policy[-1]} }} }}"
    core = start(models(model("m", base, PLATFORM, settings)))
    (base / "2").mkdir()
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "LOADING"})
    time.sleep(0.3)  # the first attempt has failed
    shutil.copytree(half / "2", base / "new")
    (base / "new").rename(base / "3")
    at_the_end = {
        "latest 1": {1: "END", 2: "END", 3: "AVAILABLE"},
        "latest 2": {1: "END", 2: "LOADING", 3: "AVAILABLE"},
        "all": {1: "AVAILABLE", 2: "LOADING", 3: "AVAILABLE"},
    }
    eventually(lambda: states(core, "m"), at_the_end[policy])
    assert answer(core, "m") == 4.0


def test_a_lower_version_serves_while_a_broken_one_is_retried_from_the_start(start, half, base):
    (base / "2").mkdir()
    core = start(models(model("m", base, PLATFORM, ALL), model("half", half)))
    assert (answer(core, "m"), answer(core, "half")) == (3.0, 4.0)
    assert states(core, "m") == {1: "AVAILABLE", 2: "LOADING"}
    shutil.rmtree(base / "2")
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "END"})


def test_a_version_is_tried_again_until_it_loads(start, half, base, caplog):
    argv = ("--max_num_load_retries=100", "--load_retry_interval_micros=200000")
    core = start(models(model("m", base)), *argv)
    (base / "2").mkdir()
    eventually(lambda: caplog.text.count("Loading servable: {name: m version: 2} failed") > 1, True)
    for part in (half / "2").iterdir():
        (shutil.copytree if part.is_dir() else shutil.copy)(part, base / "2" / part.name)
    eventually(lambda: answer(core, "m"), 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("retries", [2, -1])
def test_a_version_that_never_loads_is_given_up_after_its_retries(start, base, caplog, retries):
    core = start(models(model("m", base)), f"--max_num_load_retries={retries}", "--load_retry_interval_micros=-1")
    (base / "2").mkdir()
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "END"})
    time.sleep(1.2)  # one poll for versions
    assert caplog.text.count("Loading servable: {name: m version: 2} failed") == 1 + max(retries, 0)


# Where models are, and in which form


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_a_base_path_may_be_a_file_uri(start, half, base, prefix):
    core = start(models(model("m", f"{prefix}{base}")))
    assert answer(core, "m") == 3.0
    shutil.copytree(half / "2", base / "new")
    (base / "new").rename(base / "2")
    eventually(lambda: states(core, "m"), {1: "END", 2: "AVAILABLE"})


def test_a_base_path_that_is_missing_is_named_as_it_was_written(start, half, caplog):
    core = start(models(model("half", half)))
    reload_for(core, models(model("half", half), model("m", "file:///nowhere/m")))
    assert "Could not find base path file:///nowhere/m for servable m with error No such file or dir" in caplog.text
    assert answer(core, "half") == 4.0


def test_a_saved_model_may_be_text(start, base):
    conformance_models.rewrite_as_text(base / "1", base / "2")
    core = start(models(model("m", base)))
    assert states(core, "m") == {2: "AVAILABLE"}
    assert answer(core, "m") == 3.0


def test_a_text_that_is_not_a_saved_model_does_not_load(start, base, caplog):
    core = start(models(model("m", base)), "--max_num_load_retries=0")
    (base / "2").mkdir()
    (base / "2" / "saved_model.pbtxt").write_text("meta_graphs {")
    eventually(lambda: states(core, "m"), {1: "AVAILABLE", 2: "END"})
    assert f"{base}/2/saved_model.pbtxt" in caplog.text


# Files that do not parse

NOT_PARSED = [
    (
        "model_config_list {\n  config { nam: 3 }\n}",
        '2:12 : Message type "tensorflow.serving.ModelConfig" has no field',
    ),
    ("model_config_list {\n  config {", '2:10 : Expected "}".'),
    ("model_config_list {}\n\nmodel_config", "3:1 : "),
]


@pytest.mark.parametrize(("text", "reason"), NOT_PARSED)
def test_a_file_that_does_not_parse_is_explained_at_the_start_and_when_it_changes(
    new_core, start, half, config_file, caplog, text, reason
):
    with pytest.raises(ServingError, match=f"INVALID_ARGUMENT: Invalid protobuf file: '{config_file}'"):
        new_core(text).start()
    line = f"Error parsing text-format tensorflow.serving.ModelServerConfig: {config_file}: {reason}"
    assert line in caplog.text
    core = start(models(model("half", half)), POLL)
    caplog.clear()
    config_file.write_text(text)
    eventually(lambda: line in caplog.text, True)
    assert answer(core, "half") == 4.0


def test_a_file_that_is_not_text_is_explained(new_core, config_file, caplog):
    core = new_core("")
    config_file.write_bytes(b'model_config_list {\n config { name: "\xff" } }')
    with pytest.raises(ServingError, match="Invalid protobuf file"):
        core.start()
    assert f"{config_file}: 2:18 : not UTF-8 text" in caplog.text


def test_a_polled_file_that_lists_no_models_any_more_changes_nothing(start, half, config_file, caplog):
    core = start(models(model("half", half)), POLL)
    config_file.write_text("")
    eventually(lambda: "Cannot transition to requested config." in caplog.text, True)
    assert answer(core, "half") == 4.0


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level(logging.WARNING)
