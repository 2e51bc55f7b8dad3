"""Words from outside are shown and do nothing."""

from __future__ import annotations

import pytest

from lens.escaping import JOINER, as_html, as_markdown, plain


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a plain name, 12 % of L2·E3: yes", "a plain name, 12 % of L2·E3: yes"),
        ("*a* _b_ `c` $d$ # e", r"\*a\* \_b\_ \`c\` \$d\$ # e"),
        ("![x](http://evil)", rf"!\[x\](http:{JOINER}//evil)"),
        ("www.a.b and x@y.z", f"www{JOINER}.a.b and x@{JOINER}y.z"),
        (":material/key: :red[x]", f":{JOINER}material/key: :{JOINER}red\\[x\\]"),
        ("<b>&lt;", r"\<b>\&lt;"),
        ("a -> b", f"a -{JOINER}> b"),
        ("GROK_LENS_A _a_ __b__", r"GROK_LENS_A \_a\_ \_\_b\_\_"),
        ("# e & <f", r"\# e & \<f"),
        ("1. one", r"1\. one"),
        ("  - one\n# two", r"  \- one # two"),
        ("safe\u202egnp.exe\x00\u200b", "safe\ufffdgnp.exe\ufffd\ufffd"),
    ],
)
def test_markdown_of_somebodys_words_shows_them_as_they_are(words, shown):
    assert as_markdown(words) == shown


def test_html_of_somebodys_words_has_no_tag_and_no_hidden_turn():
    assert as_html("<b a='c'>\u2066&") == "&lt;b a=&#x27;c&#x27;&gt;\ufffd&amp;"
    assert as_html("a\n<b>\n", keep_lines=True) == "a\n&lt;b&gt;\n"


def test_plain_words_stand_in_one_line_and_keep_what_letters_need():
    assert plain("one\r\n\ttwo") == "one two"
    assert plain("می\u200cخواهم 👩\u200d🔬") == "می\u200cخواهم 👩\u200d🔬"
