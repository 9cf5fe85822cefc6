"""What a piece of syntax looks like, for messages and pictures."""

from __future__ import annotations

import ast


def text_of(node: ast.AST) -> str:
    """The text of a piece of syntax, as `ast.unparse` writes it; where it cannot, what kind of syntax it is.

    Before Python 3.12 there is no way to write a backslash inside of an f-string's format, though it can be there as a
    character that needs one.
    """
    try:
        return ast.unparse(node)
    except ValueError:
        return f"<{type(node).__name__}>"
