import contextlib
import io
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import requests
from conftest import ROOT, start_flask, started
from hypothesis import example, given, settings
from hypothesis import strategies as st
from served_example import port_of
from werkzeug.exceptions import ServiceUnavailable, UnprocessableEntity

from benchmarks import server_processes
from examples.seq2seq import chat, export, serve_pipeline, text, train
from examples.seq2seq.ask_http import as_json
from examples.seq2seq.corpus import read_corpus
from examples.seq2seq.pipeline import Pipeline, check_network
from examples.seq2seq.text import SILENCE_REPLY, UNKNOWN_REPLY, InvalidText, question_words
from examples.seq2seq.text_model import TextModel
from examples.seq2seq.vocabulary import ANSWER_FILE, QUESTION_FILE, Vocabulary
from rnn_serving import exports
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.threads import Threads
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import ServedModel, TensorInfo

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PAIRS = [
    ("Hello", "Hello! How are you?"),
    ("How are you", "I am fine, thank you."),
    ("What's your name", "Echo: that is my name."),
    ("Bye", "See you!"),
]
FLAGS = ["--training_steps", "120", "--num_hidden", "24", "--batch_size", "4", "--word_dropout", "0", "--seed", "1"]
FLAGS += ["--learning_rate", "0.02", "--display_step", "40"]
LIMIT_S = 20


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "small.txt"
    path.write_text("".join(f"{question}\t{answer}\n" for question, answer in PAIRS))
    return path


@pytest.fixture(scope="module")
def checkpoint_dir(corpus_file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "seq2seq"
    flags = ["--corpus", str(corpus_file), "--checkpoint_dir", str(directory), "--min_answered", "1", *FLAGS]
    assert train.main(flags) == 0
    return directory


@pytest.fixture(scope="module")
def export_base(checkpoint_dir, tmp_path_factory):
    base = tmp_path_factory.mktemp("exports") / "seq2seq"
    assert export_to(base, checkpoint_dir) == 0
    return base


def export_to(base, checkpoint_dir, *flags):
    return export.main(["--checkpoint_dir", str(checkpoint_dir), "--export_base_path", str(base), *flags])


def ids_base_of(export_base):
    return f"{export_base}_ids"


# The corpus


def test_the_corpus_that_ships_has_hundreds_of_pairs_and_no_contradiction():
    corpus = read_corpus(train.CORPUS)
    assert 300 <= len(corpus) <= 900
    vocabulary = Vocabulary.from_corpus(corpus)
    answers = [answer for _, answer in corpus]
    assert [vocabulary.decode(row) for row in vocabulary.encode_answers(answers)] == answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected lines of question, tab and answer"),
        (b"\xff\ta\n", "not valid UTF-8"),
        (b"Hi\n", "line 1, 'Hi': expected lines of question, tab and answer"),
        (b"?!\tHello.\n", "line 1, .*: expected lines of question"),
        (b"Hi\tHello.\nhI!\tGo.\n", "line 2, .*: asks the same as line 1; expected each question once"),
        (b"Hi\tHello , you.\n", "the answer is not a plain sentence"),
        (b"Hi\tHello  you.\n", "the answer is not a plain sentence"),
        (b"Hi\t\n", "the answer is not a plain sentence"),
        (b"Hi\tgo <end> go\n", "the answer is not a plain sentence"),
        (b"Hi\tHello\tyou\n", "the answer is not a plain sentence"),
        (b"Hi\t" + 20 * b"ho " + b"ho\n", "the answer has 21 words and punctuation marks; expected at most 19"),
        (21 * b"ho " + b"\tHi\n", "text has more than 20 words"),
    ],
)
def test_the_first_invalid_line_is_reported(tmp_path, content, message):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_corpus(path)


def test_a_missing_corpus_is_an_error(tmp_path):
    with pytest.raises(UserError, match="No such file or directory; expected lines of question"):
        read_corpus(tmp_path / "none.txt")


# The text work, in Python and in the graph


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How are YOU?", ["how", "are", "you"]),
        ("  what's\tup\n", ["whats", "up"]),
        ("what\u2019s up\u2026", ["whats", "up"]),
        ("caf\u00e9 \U0001f600\u3000ok", ["caf\u00e9", "\U0001f600", "ok"]),
        ("\ufeffhello", ["hello"]),
        ("\u00c4 \u0130", ["\u00c4", "\u0130"]),
        ("a\0b<pad>", ["a", "b", "pad"]),
        ("", []),
        ("'?!'", []),
    ],
)
def test_a_question_is_split_into_words(question, words):
    assert question_words(question.encode()) == words


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The vocabulary, and the functions of the graph that must do what its `encode` and `decode` do."""
    vocabulary = Vocabulary.from_corpus(PAIRS)
    directory = tmp_path_factory.mktemp("vocabulary")
    vocabulary.write(directory)
    model = TextModel(None, directory)
    encode = tf.function(model.encode, [tf.TensorSpec((None,), tf.string)], autograph=False)
    decode = tf.function(model.decode, [tf.TensorSpec((None, text.MAX_REPLY), tf.int32)], autograph=False)
    return SimpleNamespace(vocabulary=vocabulary, encode=encode, decode=decode, directory=directory)


def outcome(function, *arguments):
    """Return the result of a function, as lists, or the message of its error."""
    try:
        return np.asarray(function(*arguments)).tolist()
    except InvalidText as error:
        return str(error)
    except tf.errors.InvalidArgumentError as error:
        return error.message.split("assertion failed: [")[1].split("]")[0]


WORDS = st.sampled_from(
    ["Hello", "how", "ARE", "you", "What's", "na\u00efve", " ", "\u2019", "?", "\u1680", "\u0085", "\0"]
)
QUESTIONS = st.one_of(
    st.text(),
    st.lists(WORDS | st.characters(exclude_categories=["Cs"]), max_size=25).map(" ".join),
    st.lists(WORDS).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(QUESTIONS.map(str.encode) | st.binary(), max_size=4))
@example([b"\xed\xa0\x80"])  # half of a surrogate pair
@example([b"\xc0\x80", b"hello"])  # NUL, too long
@example([b"\xef\xbf\xbd \xef\xbf\xbf \xf4\x8f\xbf\xbf"])  # valid: the replacement character, and noncharacters
@example([b"\xf4\x90\x80\x80"])  # beyond Unicode
def test_python_and_the_graph_turn_any_bytes_into_the_same_ids(twins, texts):
    by_python = outcome(twins.vocabulary.encode, texts)
    by_graph = outcome(twins.encode, tf.constant(texts, tf.string, (len(texts),)))
    if isinstance(by_python, str) and by_python != by_graph:
        # In a batch with more than one bad text, either may be the first one found.
        assert by_graph in {outcome(twins.vocabulary.encode, [text]) for text in texts}
    else:
        assert by_graph == by_python


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_python_and_the_graph_write_the_same_sentences(twins, data):
    number = st.integers(1, len(twins.vocabulary.answers) - 1)
    rows = data.draw(st.lists(st.lists(number, max_size=text.MAX_REPLY), min_size=1, max_size=3))
    ids = np.array([row + [text.END] * (text.MAX_REPLY - len(row)) for row in rows], np.int32)
    assert [reply.decode() for reply in twins.decode(ids).numpy()] == [twins.vocabulary.decode(row) for row in ids]


def test_a_vocabulary_is_read_as_it_was_written(twins):
    found = Vocabulary.read(twins.directory)
    assert (found.questions, found.answers) == (twins.vocabulary.questions, twins.vocabulary.answers)


# Training and export


def test_training_is_graded_and_records_its_corpus(checkpoint_dir, corpus_file):
    run = json.loads((checkpoint_dir / "run.json").read_text())
    assert run["answered"] == 1
    assert run["dataset"]["name"] == "small"
    assert run["dataset"]["pairs"] == len(PAIRS)
    assert sorted(path.name for path in checkpoint_dir.glob("ckpt-*.index")) == [f"{run['checkpoint']}.index"]


def test_training_again_replaces_the_checkpoint_and_a_poor_one_exits_with_1(
    corpus_file, checkpoint_dir, tmp_path, capsys
):
    directory = shutil.copytree(checkpoint_dir, tmp_path / "seq2seq")
    flags = ["--corpus", str(corpus_file), "--checkpoint_dir", str(directory), *FLAGS, "--training_steps", "1"]
    assert train.main([*flags, "--min_answered", "0.9"]) == 1
    assert "answered word for word: 0.000; expected at least 0.9" in capsys.readouterr().err
    assert sorted(path.name for path in directory.iterdir()) == [
        "ckpt-2.data-00000-of-00001",
        "ckpt-2.index",
        "run.json",
    ]


def test_a_learning_rate_that_is_too_high_stops_the_training_and_leaves_no_checkpoint(corpus_file, tmp_path):
    flags = ["--corpus", str(corpus_file), "--checkpoint_dir", str(tmp_path), *FLAGS, "--learning_rate", "1e38"]
    with pytest.raises(UserError, match="the loss is nan; expected a finite number, try a lower --learning_rate"):
        train.main(flags)
    assert not list(tmp_path.iterdir())


def test_a_version_of_each_model_appears_with_its_origin(export_base):
    for base in (export_base, export_base.with_name("seq2seq_ids")):
        assert exports.newest(base) == base / "1"
        assert [path.name for path in base.iterdir()] == ["1"]
        origin = exports.provenance(base / "1")
        assert (origin["model"], origin["version"], origin["answered"]) == (base.name, 1, 1)
        assert origin["dataset"]["name"] == "small"


def test_the_monolithic_model_has_its_vocabularies_and_needs_no_python(export_base, tmp_path):
    moved = shutil.copytree(export_base / "1", tmp_path / "elsewhere" / "1")
    assert {path.name for path in (moved / "assets").iterdir()} == {QUESTION_FILE, ANSWER_FILE}
    graph = saved_model_pb2.SavedModel.FromString((moved / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    operations = {node.op for node in nodes}
    assert "InitializeTableFromTextFileV2" in operations
    assert not [name for name in operations if "Py" in name or "Sentencepiece" in name]
    with ServedModel(moved) as model:
        assert {key: (info.dtype, info.shape) for key, info in model.signature.inputs.items()} == {
            "text": ("string", (None,))
        }
        assert {key: (info.dtype, info.shape) for key, info in model.signature.outputs.items()} == {
            "reply": ("string", (None,))
        }
        assert predict(model, "hello", "") == ["Hello! How are you?", SILENCE_REPLY]
        assert predict(model) == []


def predict(model, *questions):
    texts = np.array([*(question.encode() for question in questions), None], object)[:-1]
    return [reply.decode() for reply in model.predict({"text": texts})["reply"]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (np.array(b"hello", object), r"\[\] is not compatible with expected shape \[\?\]"),
        (np.array([[b"hello"]], object), r"\[1,1\] is not compatible with expected shape \[\?\]"),
    ],
)
def test_texts_of_another_shape_are_refused(export_base, texts, message):
    with ServedModel(export_base) as model:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            model.predict({"text": texts})


def test_the_network_refuses_other_widths_and_reads_unassigned_ids_as_unknown(export_base):
    with ServedModel(ids_base_of(export_base)) as model:
        for ids in (np.zeros((1, 21), np.int32), np.zeros((1, 19), np.int32), np.zeros(20, np.int32)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"not compatible with expected shape \[\?,20\]"):
                model.predict({"ids": ids})
        ids = np.array([[text.UNKNOWN] + 19 * [0], [10**9] + 19 * [0], [-1] + 19 * [0]], np.int32)
        first, *others = model.predict({"ids": ids})["reply_ids"].tolist()
        assert others == [first, first]


@pytest.mark.parametrize("flags", [["--model_version", "1"], []])
def test_an_export_that_answers_differently_or_exists_is_not_published(
    checkpoint_dir, export_base, tmp_path, monkeypatch, flags
):
    base = shutil.copytree(export_base, tmp_path / "seq2seq")
    shutil.copytree(ids_base_of(export_base), tmp_path / "seq2seq_ids")
    monkeypatch.setattr(Vocabulary, "decode", lambda self, ids: "something else")
    with pytest.raises(UserError, match="exists" if flags else "is answered .*; expected .*, nothing is published"):
        export_to(base, checkpoint_dir, *flags)
    for path in (base, tmp_path / "seq2seq_ids"):
        assert [child.name for child in path.iterdir()] == ["1"]


def test_exporting_without_a_checkpoint_or_with_a_damaged_one_is_an_error(checkpoint_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint; expected one that `python -m examples.seq2seq.train` writes"):
        export_to(tmp_path / "out", tmp_path)
    damaged = shutil.copytree(checkpoint_dir, tmp_path / "damaged")
    next(damaged.glob("*.data-*")).write_bytes(b"x")
    with pytest.raises(UserError, match="not readable as a checkpoint"):
        export_to(tmp_path / "out", damaged)
    assert not (tmp_path / "out").exists()


# Every route


@pytest.fixture(scope="module")
def servers(export_base, tmp_path_factory):
    """Real processes: the Flask endpoint, a model server with both models, and the pipeline in front of the latter."""
    models = "".join(
        f'config {{ name: "{name}" base_path: "{export_base.with_name(name)}" model_platform: "tensorflow" }}'
        for name in ("seq2seq", "seq2seq_ids")
    )
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(f"model_config_list {{ {models} }}")
    address, rest = f"127.0.0.1:{server_processes.free_port()}", server_processes.free_port()
    serve = [sys.executable, "-m", "rnn_serving.model_server", f"--model_config_file={config}"]
    serve += [f"--port={address.split(':')[1]}", f"--rest_api_port={rest}"]
    gateway = [sys.executable, "-m", "examples.seq2seq.serve_pipeline", "--port", "0", "--request_timeout", "60"]
    gateway += ["--backend", address, "--model_path", ids_base_of(export_base)]
    with contextlib.ExitStack() as stack:
        # The pipeline waits for its model server, so that all three may start at once.
        model_server = stack.enter_context(started(*serve))
        pipeline = stack.enter_context(started(*gateway))
        flask = stack.enter_context(start_flask(export_base))
        model_server.wait_for("Exporting HTTP/REST API")
        channel = stack.enter_context(grpc.insecure_channel(address))
        yield SimpleNamespace(
            flask=flask.ready[1],
            pipeline=pipeline.wait_for(r"ready on (http://\S+/)")[1],
            grpc=address,
            rest=f"http://127.0.0.1:{rest}/v1/models/seq2seq:predict",
            stub=prediction_service_pb2_grpc.PredictionServiceStub(channel),
        )


def ask_http(url, request, key):
    answer = requests.post(url, json=request, timeout=LIMIT_S)
    return answer.json()[key] if answer.ok else (answer.status_code, answer.json()["error"])


def ask_grpc(servers, texts):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "seq2seq"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts, tf.string))
    try:
        return [reply.decode() for reply in servers.stub.Predict(request, timeout=LIMIT_S).outputs["reply"].string_val]
    except grpc.RpcError as error:
        return error.code().value[0], error.details()


# Route -> (how to ask for some bytes, the code of a request that is refused).
ROUTES = {
    "flask": (lambda servers, texts: ask_http(servers.flask, {"data": list(map(as_json, texts))}, "y"), 422),
    "pipeline": (lambda servers, texts: ask_http(servers.pipeline, {"data": list(map(as_json, texts))}, "y"), 422),
    "grpc": (ask_grpc, grpc.StatusCode.INVALID_ARGUMENT.value[0]),
    "rest": (
        lambda servers, texts: ask_http(servers.rest, {"instances": list(map(as_json, texts))}, "predictions"),
        400,
    ),
}
BATCHES = [
    [b"how are you"],
    [b"Hello!", b"how are you", b"", b"What\xe2\x80\x99s your name?", b"xyzzy", b"hello xyzzy", b"bye bye bye"],
    [b"?!", b"\0"],
    [20 * b"hello "],
    [question.encode() for question, _ in PAIRS] * 10,
]


@pytest.mark.parametrize("texts", BATCHES, ids=range(len(BATCHES)))
def test_every_route_gives_the_same_answers(servers, export_base, texts):
    with ServedModel(export_base) as model:
        expected = predict(model, *(text.decode() for text in texts))
        # The other rows of a batch change nothing.
        assert expected == [predict(model, text.decode())[0] for text in texts]
    for ask, _ in ROUTES.values():
        assert ask(servers, texts) == expected


def test_every_pair_is_answered_word_for_word_and_odd_ones_as_defined(servers):
    questions = [*(question.encode() for question, _ in PAIRS), b"", b" ?!", b"xyzzy", "\u4f60\u597d".encode()]
    expected = [*(answer for _, answer in PAIRS), SILENCE_REPLY, SILENCE_REPLY, UNKNOWN_REPLY, UNKNOWN_REPLY]
    for ask, _ in ROUTES.values():
        assert ask(servers, questions) == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([21 * b"hello "], text.TOO_LONG),
        ([b"hello", 1000 * b"x y "], text.TOO_LONG),
        ([b"\xff\xfe"], text.NOT_UTF8),
        ([b"hello", b"\xc3"], text.NOT_UTF8),
    ],
    ids=["too long", "one too long", "not UTF-8", "one not UTF-8"],
)
def test_every_route_refuses_the_same_texts_with_the_same_message(servers, route, texts, message):
    ask, refused = ROUTES[route]
    status, error = ask(servers, texts)
    assert status == refused
    assert message in error
    assert ask(servers, [b"hello"]) == ["Hello! How are you?"]


@pytest.mark.parametrize("url", ["flask", "pipeline"])
@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("hello", ["Hello! How are you?"]),
        ({"b64": "aGVsbG8="}, ["Hello! How are you?"]),
        ({"b64": "aGVsbG8"}, ["Hello! How are you?"]),
        ({"b64": "aGVsbG8!"}, (422, "is not base64")),
        ({"b64": "/w=="}, (422, text.NOT_UTF8)),
        (3, (422, "'data' is a number; expected a list of strings")),
        ([["hello"]], (422, "expected strings")),
        ([], (422, "expected one element or a list of them")),
    ],
    ids=str,
)
def test_the_endpoint_takes_text_and_base64(servers, url, data, answer):
    found = ask_http(getattr(servers, url), {"data": data}, "y")
    assert found == answer if isinstance(answer, list) else found[0] == answer[0] and answer[1] in found[1]


def test_the_endpoint_describes_the_pipeline_as_it_does_the_model(servers):
    described = [requests.get(url + "metadata", timeout=LIMIT_S).json() for url in (servers.flask, servers.pipeline)]
    for found in described:
        assert (found["model"], found["version"], found["dataset"]) == ("seq2seq", 1, "small")
        tensors = [*found["signature"]["inputs"].items(), *found["signature"]["outputs"].items()]
        assert [(key, info["dtype"], info["shape"]) for key, info in tensors] == [
            ("text", "string", [None]),
            ("reply", "string", [None]),
        ]
    answer = requests.post(servers.pipeline, json={"data": "hello"}, timeout=LIMIT_S)
    assert answer.headers["X-Model-Version"] == "1"


# The pipeline's own


class Network:
    """A model server that answers by `versions` in turn, each with its own ids."""

    mode = "in this process"

    def __init__(self, vocabularies, versions):
        self.vocabularies, self.versions, self.version = vocabularies, iter(versions), 1

    @contextlib.contextmanager
    def acquire(self):
        yield self

    def predict(self, inputs):
        self.version = next(self.versions)
        return {"reply_ids": self.vocabularies[self.version].encode_answers(["yes"] * len(inputs["ids"]))}


@pytest.fixture
def pipeline(tmp_path):
    """A function that creates a pipeline whose network answers by some versions in turn; version 3 has no files."""
    vocabularies = {
        1: Vocabulary([*text.QUESTION_SPECIALS, "hello"], ["<end>", "yes"]),
        2: Vocabulary([*text.QUESTION_SPECIALS, "a", "hello"], ["<end>", "a", "b", "yes"]),
        3: Vocabulary([*text.QUESTION_SPECIALS, "hello"], ["<end>", "yes"]),
    }
    for version in (1, 2):
        directory = tmp_path / str(version) / "assets.extra"
        directory.mkdir(parents=True)
        vocabularies[version].write(directory)

    def create(*versions):
        pipeline = Pipeline("127.0.0.1:1", "seq2seq_ids", tmp_path, 1.0, Threads)
        pipeline._network = Network(vocabularies, versions)
        return pipeline

    return create


def test_the_words_are_those_of_the_version_that_answered(pipeline):
    model = pipeline(1, 2, 2, 1, 1)
    for version in (1, 2, 1):
        with model.acquire() as request:
            assert predict(request, "hello") == ["yes"]
            assert request.version == version


def test_without_a_known_word_no_server_is_asked(pipeline):
    with pipeline().acquire() as request:
        assert predict(request, "", "a") == [SILENCE_REPLY, UNKNOWN_REPLY]


@pytest.mark.parametrize(
    ("versions", "question", "error", "message"),
    [
        ((3,), "hello", ServiceUnavailable, "question_words.txt: No such file or directory"),
        ((2, 1, 2), "hello", ServiceUnavailable, "are changing versions"),
        ((), 21 * "hello ", UnprocessableEntity, "more than 20 words"),
    ],
    ids=["no files", "versions in turn", "too long"],
)
def test_a_question_that_cannot_be_answered_has_its_status(pipeline, versions, question, error, message):
    with pipeline(*versions).acquire() as request, pytest.raises(error, match=message):
        predict(request, question)


def test_before_it_is_loaded_the_pipeline_is_503(tmp_path):
    pipeline = Pipeline("127.0.0.1:1", "seq2seq_ids", tmp_path, 1.0, Threads)
    assert not pipeline.is_ready
    with pytest.raises(ServiceUnavailable, match="no model server has answered yet"), pipeline.acquire():
        pass


def test_a_network_of_another_signature_is_refused():
    def info(key, width):
        return {key: TensorInfo(key, key, "int32", (None, width))}

    def model(inputs, outputs):
        return SimpleNamespace(name="m", signature=SimpleNamespace(inputs=inputs, outputs=outputs))

    check_network(model(info("ids", 20), info("reply_ids", 20)))
    for inputs in (info("ids", 30), info("x", 20), {}):
        with pytest.raises(UserError, match="model m has the signature .*; expected "):
            check_network(model(inputs, info("reply_ids", 20)))


def test_the_pipeline_does_not_start_without_its_files_or_a_model_server(tmp_path, export_base):
    with pytest.raises(UserError, match="no exported model; expected "):
        serve_pipeline.main(["--port", "0", "--model_path", str(tmp_path)])
    backend = f"127.0.0.1:{server_processes.free_port()}"
    with pytest.raises(UserError, match=f"backend {backend}: UNAVAILABLE"):
        Pipeline(backend, "seq2seq_ids", ids_base_of(export_base), 1.0, Threads).load()


# chat.py


def run_chat(monkeypatch, capsys, *flags, lines=b"hello\n\n\xff\nbye", isatty=False):
    """Return (exit status, or the error; stdout; stderr) of chat.py."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines), isatty=lambda: isatty))
    try:
        status = chat.main(list(map(str, flags)))
    except UserError as error:
        status = str(error)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("protocol", chat.PORTS)
def test_chat_asks_line_by_line_and_continues_after_a_refusal(servers, protocol, monkeypatch, capsys):
    flags = ["--protocol", protocol, "--port", port_of(getattr(servers, protocol))]
    status, out, err = run_chat(monkeypatch, capsys, *flags)
    assert out.splitlines() == ["Hello! How are you?", SILENCE_REPLY, "See you!"]
    assert (status, err.count("\n"), text.NOT_UTF8 in err) == (1, 1, True)


def test_chat_shows_a_prompt_at_a_terminal_only(servers, monkeypatch, capsys):
    flags = ["--port", str(port_of(servers.pipeline))]
    assert run_chat(monkeypatch, capsys, *flags, lines=b"", isatty=True) == (0, "> ", "")
    command = [sys.executable, "-m", "examples.seq2seq.chat", *flags]
    run = subprocess.run(command, cwd=ROOT, input=b"bye\n", capture_output=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"See you!\n", b"")


@pytest.mark.parametrize("protocol", chat.PORTS)
def test_chat_reports_a_missing_server(protocol, monkeypatch, capsys):
    port = server_processes.free_port()
    status, out, _ = run_chat(monkeypatch, capsys, "--protocol", protocol, "--port", port, "--wait", "0")
    assert f"127.0.0.1:{port}" in status
    assert status.endswith(f"expected a server of seq2seq there that speaks {protocol}")
    assert not out


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_chat_reports_an_unknown_model(servers, protocol, monkeypatch, capsys):
    flags = ["--protocol", protocol, "--port", port_of(getattr(servers, protocol)), "--model_name", "other"]
    status, out, _ = run_chat(monkeypatch, capsys, *flags)
    assert "expected a server of other there" in status
    assert not out


@pytest.mark.slow
def test_it_learns_its_corpus(tmp_path):
    checkpoint_dir = tmp_path / "checkpoint"
    assert train.main(["--checkpoint_dir", str(checkpoint_dir), "--min_answered", "0.95"]) == 0
    assert export_to(tmp_path / "seq2seq", checkpoint_dir) == 0
    corpus = read_corpus(train.CORPUS)
    with ServedModel(tmp_path / "seq2seq") as model:
        replies = predict(model, *(question for question, _ in corpus))
    assert np.mean([reply == answer for reply, (_, answer) in zip(replies, corpus)]) >= 0.95
