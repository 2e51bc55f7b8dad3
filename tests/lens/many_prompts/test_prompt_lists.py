"""Prompts with labels out of text that anybody may have written."""

from __future__ import annotations

import json

import pytest

from lens.errors import LensError
from lens.many_prompts import prompt_lists
from lens.many_prompts.prompt_lists import PromptList, read_prompts


def test_each_line_is_a_prompt_and_blank_lines_are_none():
    found = read_prompts("one\n\n  two, with a comma  \r\nthree")
    assert found.texts == ("one", "two, with a comma", "three")
    assert found.labels == ("all",) * 3
    assert found.form == "lines"


def test_a_tab_divides_label_and_prompt_where_every_line_has_one():
    found = read_prompts("sums\t2 + 2\nprose\tIt rained.\tAll day.")
    assert found.labels == ("sums", "prose")
    assert found.texts == ("2 + 2", "It rained.\tAll day.")
    assert read_prompts("\tindented\nplain\nplain too").labels == ("all",) * 3
    with pytest.raises(LensError, match="line 2: no tab, though 2 of 3"):
        read_prompts("a\tone\ntwo\na\tthree")


def test_csv_keeps_quotes_separators_and_line_breaks_of_a_prompt():
    text = 'Label,Prompt\ncode,"print(""a"", 1)\nx = 2"\nprose,plain\n'
    found = read_prompts(text)
    assert found.form == "csv"
    assert found.texts == ('print("a", 1)\nx = 2', "plain")
    assert found.labels == ("code", "prose")
    assert read_prompts("text;domain\nhello;a\n").labels == ("a",)
    assert read_prompts("id\tprompt\n7\thello\n").texts == ("hello",)


def test_the_column_of_the_labels_can_be_chosen():
    text = "prompt,label,language\nhello,a,en\nhallo,a,de\n"
    assert read_prompts(text).labels == ("a", "a")
    assert read_prompts(text, label_column="language").labels == ("en", "de")
    with pytest.raises(LensError, match="no column 'tongue'; found prompt, label, language"):
        read_prompts(text, label_column="tongue")


def test_json_lines_hold_anything_and_come_back_as_they_were():
    own = PromptList(("a\nb\t\u2028c", '"quoted" {', "ü"), ("x", "y", "x"), "jsonl")
    found = read_prompts(own.jsonl().encode())
    assert (found.texts, found.labels, found.form) == (own.texts, own.labels, "jsonl")
    assert found.by_label == {"x": 2, "y": 1}
    assert read_prompts('{"text": "a", "label": 3}').labels == ("3",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_are_read_in_the_encodings_that_editors_write(encoding):
    assert read_prompts("grün\nété".encode(encoding)).texts == ("grün", "été")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "holds no prompts"),
        ("  \n\t\n", "holds no prompts"),
        ("prompt,label\n", "holds no prompts"),
        (b"fine\n\xffbad", "line 2: this is not UTF-8"),
        ("fine\nze\0ro", "line 2: a zero character"),
        ("prompt,label\na,b\nc\n", "line 3: 1 columns; the first line names 2"),
        ('prompt,label\n"a,b\n', "line 2: this is not CSV"),
        ('prompt,label\n"a" x,b\n', "line 2: this is not CSV"),
        ("prompt,prompt,label\na,b,c\n", "two columns are called 'prompt'"),
        ("prompt,label\na,\n", "line 2: found the label ''"),
        ("prompt,label\n  ,x\n", "line 2: the prompt is empty"),
        ('{"prompt": "a"}\nb', "line 2: expected an object"),
        ('{"prompt": "a"}\n[1]', "line 2: expected an object"),
        ('{"prompt": 3}', "line 1: prompt is 3; expected text"),
        ('{"words": "a"}', "found the columns words; expected one called prompt or text"),
        ('{"prompt": "a", "label": "x"}\n{"prompt": "b"}', "line 2: label is None"),
        ('{"prompt": "a", "label": true}', "line 1: label is True"),
        ('{"prompt": "\\ud800"}', "line 1: the prompt holds half of a surrogate pair"),
        ("[" * 50, None),
        ('{"prompt":' + "[" * 100_000, "line 1: expected an object"),
    ],
)
def test_what_cannot_be_read_names_its_line(source, message):
    if message is None:
        assert read_prompts(source).texts == (source,)
        return
    with pytest.raises(LensError, match=message):
        read_prompts(source)


def test_a_column_of_what_cannot_be_printed_is_named_in_print():
    with pytest.raises(LensError) as caught:
        read_prompts('{"prompt": "a", "\x7f": 1}', prompt_column="\x7f")
    assert str(caught.value).isprintable()


def test_the_name_of_the_file_is_in_the_message():
    with pytest.raises(LensError, match="mine.csv, line 2"):
        read_prompts("prompt,label\na,\n", where="mine.csv")


def test_a_quoted_prompt_over_lines_is_named_by_its_first_line():
    with pytest.raises(LensError, match="line 4: found the label"):
        read_prompts('prompt,label\n"a\nb",x\n"c\nd",\n')


def test_lists_beyond_the_limits_are_refused(monkeypatch):
    with pytest.raises(LensError, match="2,001 prompts; at most 2,000"):
        read_prompts("a\n" * 2001)
    with pytest.raises(LensError, match="51 different labels; at most 50"):
        read_prompts("\n".join(json.dumps({"prompt": "a", "label": i}) for i in range(51)))
    with pytest.raises(LensError, match="line 1: the prompt has 50,001 characters"):
        read_prompts("a" * 50_001)
    monkeypatch.setattr(prompt_lists, "MAX_BYTES", 10)
    with pytest.raises(LensError, match="11 bytes; at most 10"):
        read_prompts(b"a" * 11)
