import os

from benchmarks import cpp_server


def test_the_cpp_server_is_found_on_the_path_unless_another_program_is_asked_for(tmp_path, monkeypatch):
    program = tmp_path / "tensorflow_model_server"
    program.write_text("#!/bin/sh\necho 'TensorFlow ModelServer: 2.19.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("TFSERVING", raising=False)
    assert cpp_server.find() == "binary"
    assert cpp_server.version("binary") == "2.19.1"
    monkeypatch.setenv("TFSERVING", "python")
    assert cpp_server.find() is None


def test_the_batching_parameters_are_those_that_are_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(cpp_server.environment, "available_cores", lambda: 2)
    flags = cpp_server.batching_flags(tmp_path)
    path = tmp_path / "batching_parameters.txt"
    assert flags == ("--enable_batching=true", f"--batching_parameters_file={path}")
    assert path.read_text().splitlines() == [
        "max_batch_size { value: 32 }",
        "batch_timeout_micros { value: 0 }",
        "num_batch_threads { value: 2 }",
        *(f"allowed_batch_sizes: {size}" for size in (1, 2, 4, 8, 16, 32)),
    ]
    assert cpp_server.describe_batching() == (
        "batching on: max_batch_size 32, batch_timeout_micros 0, num_batch_threads 2, allowed_batch_sizes 1,2,4,8,16,32"
    )
