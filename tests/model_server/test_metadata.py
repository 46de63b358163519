import json

import pytest

from rnn_serving.model_server.metadata import trained_on_header


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ('{"dataset": {"name": "digits"}}', (("x-trained-on", "digits"),)),
        ('{"dataset": {"name": "my data (1)"}}', (("x-trained-on", "my data (1)"),)),
        ('{"dataset": {"name": "100 %\\n"}}', (("x-trained-on", "100 %25%0A"),)),
        ('{"dataset": {"name": "\u00e9\\ud800"}}', (("x-trained-on", "%C3%A9?"),)),
        (json.dumps({"dataset": {"name": "n" * 9999}}), (("x-trained-on", "n" * 200),)),
        ('{"dataset": {"name": ""}}', ()),
        ('{"dataset": {"name": 7}}', ()),
        ('{"dataset": {}}', ()),
        ('{"dataset": "digits"}', ()),
        ("{}", ()),
        ("[]", ()),
        ("{", ()),
        (None, ()),
    ],
)
def test_the_data_set_in_an_export_is_a_header_whatever_its_name_and_others_have_none(tmp_path, content, header):
    if content is not None:
        (tmp_path / "assets.extra").mkdir()
        (tmp_path / "assets.extra" / "model.json").write_text(content, encoding="utf-8")
    assert trained_on_header(tmp_path) == header
