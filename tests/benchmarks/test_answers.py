import contextlib

import numpy as np
import pytest

from benchmarks.answers import Answers, check_signature, open_model
from rnn_serving.command_line import UserError
from rnn_serving.saved_model import ServedModel


@pytest.fixture
def model(export_base):
    with ServedModel(export_base) as model:
        yield model


def test_batches_have_every_image_and_as_many_as_asked_for(model, test_images):
    answers = Answers(model, test_images.images[:5])
    for size in (1, 2, 5, 12):
        chosen = [indexes for indexes, _ in answers.batches(size)]
        assert all(len(indexes) == size for indexes in chosen)
        assert set(np.concatenate(chosen)) == set(range(5))
    assert answers.batches(2)[1][1].shape == (2, 28, 28)


def test_only_the_models_own_answers_pass(model, test_images):
    answers = Answers(model, test_images.images[:5])
    indexes, logits = np.arange(2), answers.expected["logits"][:2]
    answers.check("a route", "logits", indexes, logits + 5e-4)
    for wrong in (logits + 2e-3, logits[::-1], logits[:, :9], logits[:1]):
        with pytest.raises(UserError, match="a route: another answer to image 0 and the 1 after it"):
            answers.check("a route", "logits", indexes, wrong)


def test_the_newest_version_gets_a_base_of_its_own(export_base):
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, export_base)
        assert [path.name for path in base.iterdir()] == ["1"]
        assert base != export_base
        assert model.version == 1
    assert not base.exists()


def test_a_model_that_is_not_the_lstm_is_an_error(model, monkeypatch):
    monkeypatch.setattr("rnn_serving.model.INPUT_KEY", "words")
    with pytest.raises(UserError, match="expected .'words', 'y_output'."):
        check_signature(model)
