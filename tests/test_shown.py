"""Text from elsewhere on the terminal and on the page: nothing in it moves a cursor or turns a line around."""

import pytest

from fip_jax.progress import _Screen
from fip_jax.shown import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, 3 %", "plain text, 3 %"),
        ("größe ✓ 字 é", "größe ✓ 字 é"),
        ("a\x1b[2J\r\n\tb\x9b", r"a\x1b[2J\x0d\x0a\x09b\x9b"),
        ("\u202egnp.exe\u2066\u200b", r"\u202egnp.exe\u2066\u200b"),
        ("\udce9\U000e0041\u2028", r"\udce9\U000e0041\u2028"),
    ],
)
def test_escapes(text, expected):
    assert shown(text) == expected
    expected.encode()


def test_the_terminal_gets_text(capsys):
    _Screen().print("a\x1b[2J\nb\u202e", markup=False)
    assert capsys.readouterr().out == "a\\x1b[2J\nb\\u202e\n"
