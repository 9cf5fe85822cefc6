"""Typed values and the evaluator of the expressions that a spec holds: pure, so that fold, triggers and routes
get the same answer.

- `types`: `TypeTable` and `ParamsCodec`, from declared types to decoding, encoding and checking.
- `values`: the values, and their stored form.
- `evaluate`: `compile_expression`.
- `builtins`: the functions and methods that expressions may call.
- `parse`, `configuration`: from Python's syntax to the expression tree, for the compiler and for texts.
- `limits`, `errors`: what is too large, and what went wrong.
"""

from dressage.expressions.configuration import parse_expression
from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.evaluate import compile_expression
from dressage.expressions.types import Codec, ParamsCodec, TypeTable
from dressage.expressions.values import Record, decode_stored, encode_stored

__all__ = [
    "Codec",
    "ExpressionFailed",
    "LimitExceeded",
    "ParamsCodec",
    "Record",
    "TypeTable",
    "compile_expression",
    "decode_stored",
    "encode_stored",
    "parse_expression",
]
