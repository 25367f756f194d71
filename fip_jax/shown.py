"""Text from elsewhere, fit to be shown: no character of it moves a cursor, turns the line around or ends it."""

import unicodedata

# Control characters, invisible ones (the right-to-left override among them), halves of pairs, and ends of lines.
_UNFIT = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def shown(text: str, keep: str = "") -> str:
    r"""The text with every such character as an escape, U+202E as `\u202e`.

    Args:
      text: of a file, a folder or a setting.
      keep: characters that stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if c not in keep and unicodedata.category(c) in _UNFIT else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
