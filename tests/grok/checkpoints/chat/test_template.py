"""Chat templates: what they make of messages, and that a hostile one can do nothing but fail."""

from __future__ import annotations

import json

import pytest

from grok.checkpoints.chat.template import ChatTemplate, read_chat_template
from grok.errors import CheckpointError, PromptError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_messages_become_the_text_that_the_model_was_taught(tmp_path):
    config = {"chat_template": CHATML, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = read_chat_template(tmp_path)
    assert template.tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert template.render(" Hi é ") == (
        "<|im_start|>user\nHi é<|im_end|>\n<|im_start|>assistant\n"
    )
    several = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert template.render(several).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages | tojson }}")
    text = read_chat_template(tmp_path).render("<é>")
    assert text == '<s>[{"role": "user", "content": "<é>"}]'


def test_a_folder_without_a_template_has_none(tmp_path):
    assert read_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    assert read_chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path).source == "yes"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"chat_template": 7}', "found int; expected a text"),
        (b"{", "JSON"),
        (b"\xff\xfe", "no UTF-8"),
        (json.dumps({"chat_template": "a" * 300_000}).encode(), "300,000 characters"),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, content, says):
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_chat_template(tmp_path)


HOSTILE = {
    "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "a function's globals": "{{ raise_exception.__globals__['sys'] }}",
    "format": "{{ '{0.__class__}'.format(messages) }}{{ ''.__class__() }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 9) %}a{% endfor %}",
    "much output": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "much memory": "{{ ('a' * 10 ** 10) | length }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a change": "{{ messages.append(1) }}",
    "a refusal": "{{ raise_exception('roles must alternate') }}",
    "no template": "{% for %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_fails_in_words(name):
    with pytest.raises(PromptError, match="the chat template fails on this message") as caught:
        ChatTemplate(HOSTILE[name], "here").render("Hi")
    if name == "a refusal":
        assert "roles must alternate" in str(caught.value)


def test_a_template_that_is_stopped_leaves_no_file_where_the_program_was_started(
    tmp_path, monkeypatch
):
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))  # dumps, where there may be
    try:
        with pytest.raises(PromptError, match="too long"):
            ChatTemplate(HOSTILE["a power"], "here").render("Hi")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert list(tmp_path.iterdir()) == []


def test_messages_that_are_none_are_refused():
    with pytest.raises(PromptError, match="found the role god and a str; expected a role"):
        ChatTemplate(CHATML, "here").render([{"role": "god", "content": "Hi"}])


def test_a_first_token_that_the_tokenizer_adds_itself_is_not_there_twice():
    class Adds:
        def encode(self, text):
            import numpy as np

            return np.array([1, *([1] if text == "<s>" else [2] * len(text))])

    class AddsNone(Adds):
        def encode(self, text):
            return super().encode(text)[1:]

    template = ChatTemplate("{{ bos_token }}Hi", "here", {"bos_token": "<s>"})
    assert template.prompt("a", Adds()) == "Hi"
    assert template.prompt("a", AddsNone()) == "<s>Hi"
