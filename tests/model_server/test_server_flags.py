import logging

import pytest

from rnn_serving.model_server import flags
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.flags import FlagError
from rnn_serving.model_server.options import complete


def test_the_defaults_are_those_of_tensorflow_model_server():
    options = flags.parse([])
    assert (options.port, options.rest_api_port, options.model_name) == (8500, 0, "default")
    assert options.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--port=9000", "port", 9000),
        ("--model_name=a=b", "model_name", "a=b"),
        ("--model_name=", "model_name", ""),
        ("--version", "version", True),
        ("--version=TRUE", "version", True),
        ("--version=0", "version", False),
        ("--per_process_gpu_memory_fraction=0.4", "per_process_gpu_memory_fraction", 0.4),
        ("--per_process_gpu_memory_fraction=1", "per_process_gpu_memory_fraction", 1.0),
        ("--per_process_gpu_memory_fraction=.5e-1", "per_process_gpu_memory_fraction", 0.05),
        ("--flush_filesystem_caches=false", "flush_filesystem_caches", False),
        ("--num_tflite_pools=3", "num_tflite_pools", 3),
    ],
)
def test_a_flag_is_a_name_and_a_value(argument, name, value):
    assert getattr(flags.parse([argument]), name) == value


WRONG = ["--port=abc", "--port=", "--version=yes", "--no_such_flag=1", "--port", "-port=1", "9000"]
WRONG += ["--per_process_gpu_memory_fraction=half", "--num_tflite_pools=many", "--mixed_precision", "--flush=true"]


@pytest.mark.parametrize("argument", WRONG)
def test_any_other_argument_is_an_error_that_names_it(argument):
    with pytest.raises(FlagError) as error:
        flags.parse([argument])
    assert argument.split("=")[0] in str(error.value)


OTHER_FLAGS_OF_TENSORFLOW_SERVING = [
    "--flush_filesystem_caches=false",
    "--remove_unused_fields_from_bundle_metagraph=false",
    "--num_tflite_pools=2",
    "--num_tflite_interpreters_per_pool=2",
    "--xla_cpu_compilation_enabled",
    "--xla_gpu_compilation_enabled=true",
    "--mixed_precision=bfloat16",
    "--skip_initialize_tpu=true",
    "--thread_pool_factory_config_file=/pools",
    "--num_load_threads=2",
    "--num_unload_threads=2",
    "--enable_profiler=false",
]


def completed(*argv):
    """Return the validated flags."""
    return complete(flags.parse(argv))


@pytest.mark.parametrize("argument", OTHER_FLAGS_OF_TENSORFLOW_SERVING)
def test_a_flag_without_effect_is_one_line_of_log(argument, caplog):
    caplog.set_level(logging.INFO)
    completed(argument, argument)
    name = argument.split("=")[0]
    assert [record.message for record in caplog.records if name in record.message] == [
        f"{name}: {next(flag.help for flag in flags.FLAGS if flag.name == name[2:])}"
    ]
    assert caplog.records[0].message.startswith(f"{name}: no effect: ")


def test_flags_that_are_not_given_are_not_logged(caplog):
    caplog.set_level(logging.INFO)
    completed("--use_alts_credentials=false", "--per_process_gpu_memory_fraction=0.4")
    assert not caplog.records


def test_an_insecure_port_is_not_a_substitute_for_a_secure_one():
    with pytest.raises(ServingError, match="UNIMPLEMENTED: --use_alts_credentials: ALTS is not supported"):
        completed("--use_alts_credentials")


@pytest.mark.parametrize(
    ("argv", "file", "expected"),
    [
        ([], None, (0, 0, 0.0, False)),
        (["--per_process_gpu_memory_fraction=0.5"], None, (0, 0, 0.5, False)),
        (["--tensorflow_session_parallelism=3"], None, (3, 3, 0.0, False)),
        (["--tensorflow_session_parallelism=3", "--tensorflow_intra_op_parallelism=1"], None, (1, 0, 0.0, False)),
        ([], "allow_soft_placement: true inter_op_parallelism_threads: 2", (0, 2, 0.0, True)),
        (["--tensorflow_intra_op_parallelism=1"], "inter_op_parallelism_threads: 2", (1, 2, 0.0, False)),
        (["--tensorflow_session_parallelism=4"], "inter_op_parallelism_threads: 2", (4, 4, 0.0, False)),
        (
            ["--per_process_gpu_memory_fraction=0.5"],
            "gpu_options { per_process_gpu_memory_fraction: 0.9 allow_growth: true }",
            (0, 0, 0.5, False),
        ),
    ],
)
def test_the_session_is_that_of_the_file_and_of_the_flags(argv, file, expected, tmp_path):
    if file:
        (tmp_path / "session").write_text(file)
        argv = [*argv, f"--tensorflow_session_config_file={tmp_path / 'session'}"]
    config = completed(*argv).session_config
    assert expected == (
        config.intra_op_parallelism_threads,
        config.inter_op_parallelism_threads,
        config.gpu_options.per_process_gpu_memory_fraction,
        config.allow_soft_placement,
    )


def platform_config(legacy_config, key="tensorflow", name="tensorflow.serving.SavedModelBundleSourceAdapterConfig"):
    """Return the text of a PlatformConfigMap."""
    return f"""
        platform_configs {{
          key: "{key}"
          value {{ source_adapter_config {{ [type.googleapis.com/{name}] {{ {legacy_config} }} }} }}
        }}
    """


def test_a_platform_config_file_replaces_the_flags_for_loading(tmp_path):
    settings = """
        session_config { gpu_options { allow_growth: true } intra_op_parallelism_threads: 1 }
        batching_parameters { max_batch_size { value: 8 } }
        saved_model_tags: "serve" saved_model_tags: "gpu"
        enable_model_warmup: true model_warmup_options { num_request_iterations { value: 3 } }
    """
    path = tmp_path / "platform"
    path.write_text(platform_config(f"legacy_config {{ {settings} }}"))
    argv = (f"--platform_config_file={path}", "--tensorflow_session_parallelism=4", "--saved_model_tags=other")
    options = completed(*argv)
    assert options.session_config.gpu_options.allow_growth
    assert options.session_config.intra_op_parallelism_threads == 1
    assert options.batching.max_batch_size == 8
    assert options.saved_model_tags == "serve,gpu"
    assert (options.enable_model_warmup, options.num_request_iterations_for_warmup) == (True, 3)


def test_a_platform_config_file_without_settings_is_the_defaults(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "platform"
    path.write_text(platform_config("legacy_config { enable_session_metadata: true num_tflite_pools: 1 }"))
    options = completed(f"--platform_config_file={path}", "--enable_batching")
    assert (options.batching, options.saved_model_tags, options.enable_model_warmup) == (None, "serve", False)
    assert [record.message for record in caplog.records] == [
        f"{path}: enable_session_metadata has no effect",
        f"{path}: num_tflite_pools has no effect",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("platform_configs {", "INVALID_ARGUMENT: Invalid protobuf file: "),
        (platform_config("no_such_field: 1"), "INVALID_ARGUMENT: Invalid protobuf file: "),
        (platform_config("", name="tensorflow.serving.NoSuchConfig"), "INVALID_ARGUMENT: Invalid protobuf file: "),
        (platform_config("", key="caffe"), "no platform_configs with the key 'tensorflow'"),
        (platform_config("", name="tensorflow.serving.MonitoringConfig"), "expected tensorflow.serving.SavedModelBun"),
        (
            platform_config('legacy_config { session_target: "grpc://a" }'),
            "UNIMPLEMENTED: .*session_target is not",
        ),
        (
            platform_config('legacy_config { experimental_fixed_input_tensors { name: "a" } }'),
            "UNIMPLEMENTED: .*experimental_fixed_input_tensors is not supported",
        ),
        (
            platform_config("legacy_config { batching_parameters { num_batch_threads { value: 0 } } }"),
            "num_batch_threads must be positive; was 0",
        ),
    ],
)
def test_a_platform_config_file_that_asks_for_more_is_refused(text, message, tmp_path):
    (tmp_path / "platform").write_text(text)
    with pytest.raises(ServingError, match=message):
        completed(f"--platform_config_file={tmp_path / 'platform'}")


@pytest.mark.parametrize(
    ("flag", "text", "line"),
    [
        ("batching_parameters_file", "max_batch_size { valu: 3 }", "BatchingParameters: {}: 1:18 : Message type"),
        ("monitoring_config_file", "prometheus_config {\n path: 3 }", "MonitoringConfig: {}: 2:8 : "),
        ("tensorflow_session_config_file", "intra_op: 3", "ConfigProto: {}: 1:1 : Message type"),
        ("platform_config_file", "x", "PlatformConfigMap: {}: 1:1 : Message type"),
    ],
)
def test_a_file_that_does_not_parse_is_explained_with_line_and_column(flag, text, line, tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ServingError, match=f"INVALID_ARGUMENT: Invalid protobuf file: '{path}'"):
        completed(f"--{flag}={path}", "--enable_batching")
    assert line.format(path) in caplog.text
    assert len(caplog.records) == 1


def test_a_directory_is_not_a_text_file(tmp_path):
    with pytest.raises(ServingError, match="Is a directory"):
        completed(f"--monitoring_config_file={tmp_path}")


def test_the_usage_shows_every_flag_with_its_default():
    for flag in flags.FLAGS:
        assert f"--{flag.name}=" in flags.usage()
