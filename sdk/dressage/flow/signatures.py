"""A function's typed signature, as data for the spec and as JSON for the wire.

Workers and clients use the author's own classes; the engine uses those of its `TypeTable`. Both read the same JSON.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from types import CodeType
from typing import Any

import msgspec

from dressage.expressions.masked import without_values
from dressage.flow import models
from dressage.flow.describe import TypeBook
from dressage.flow.inheriting import INHERITED
from dressage.flow.members import Unsupported
from dressage.flow.source import locals_around, source_of
from dressage.flow.wire import Wire
from dressage.protocol.errors import BadSpec, BadValue, DefinitionError
from dressage.protocol.types import Field, TypeRef


class Signature:
    """Parameters and output of a task or workflow. Raises `DefinitionError`, which names the parameter."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.book = TypeBook(_namespace_of(function))
        self.hints = self._hints()
        self._parameters = inspect.signature(function).parameters
        self.inherited = tuple(name for name, each in self._parameters.items() if each.default is INHERITED)
        """The parameters of a workflow that a child run has from its parent if it is not given them."""

        self.params: tuple[Field, ...] = tuple(self._field(each) for each in self._parameters.values())
        self.output: TypeRef = self._output()

    # -- as data -----------------------------------------------------------------------------------
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self.function, localns=self.book.namespace, include_extras=True)
        except NameError as error:
            advice = "import it, or define it at module level above"
            raise self.refusal(_blamed(self.function, error), str(error), advice) from error

    def _field(self, parameter: inspect.Parameter) -> Field:
        name = parameter.name
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise self.refusal(
                name,
                f"parameter {name} is not given by name",
                "give every parameter a name of its own, without *",
            )
        if name not in self.hints:
            raise self.refusal(
                name, f"parameter {name} has no type", f"write `{name}: int`, or whatever it is"
            )
        try:
            ref = self.book.ref(self.hints[name])
            if _is_required(parameter):
                return Field(name, ref)
            stored = msgspec.Raw(self.book.frozen(parameter.default))
            self.book.table().default(Field(name, ref, required=False, default=stored), f"parameter {name}")
        except Unsupported as error:
            raise self.refusal(name, f"parameter {name}: {error.what}", error.advice) from error
        except BadSpec as error:
            raise self.refusal(name, error.message, "give another default, or another type") from error
        return Field(name, ref, required=False, default=stored)

    def _output(self) -> TypeRef:
        if "return" not in self.hints:
            raise self.refusal(
                "return", "the function has no return type", "write `-> None`, or what it returns"
            )
        try:
            return self.book.ref(self.hints["return"])
        except Unsupported as error:
            raise self.refusal("return", f"return type: {error.what}", error.advice) from error

    def refusal(self, parameter: str, what: str, advice: str) -> DefinitionError:
        """The error that shows the annotation of a parameter, or of "return"."""
        try:
            source = source_of(self.function)
        except DefinitionError:
            return DefinitionError(f"{self.function.__qualname__}: {what}\n{advice}")
        place = source.node.returns if parameter == "return" else source.parameter(parameter)
        return source.refusal(place or source.node, what, advice)

    # -- on the wire -------------------------------------------------------------------------------
    @cached_property
    def _args_decoder(self) -> msgspec.json.Decoder[Any]:
        members: list[tuple[str, Any, Any]] = []
        for name, parameter in self._parameters.items():
            kind = self.hints[name]
            if _is_required(parameter):
                members.append((name, kind, msgspec.NODEFAULT))
            else:
                members.append((name, typing.Optional[kind], msgspec.UNSET))  # noqa: UP045
        return msgspec.json.Decoder(
            msgspec.defstruct("Parameters", members, forbid_unknown_fields=True, kw_only=True),
            dec_hook=models.from_plain,
        )

    @cached_property
    def _result(self) -> Wire:
        return Wire(self.hints["return"], f"the result of {self.function.__name__}()", masked=self._masks)

    @cached_property
    def _masks(self) -> bool:
        refs = [self.output, *(each.type for each in self.params)]
        return any(self.book.table().codec(ref).mask for ref in refs)

    def _said(self, error: Exception) -> str:
        return without_values(str(error)) if self._masks else str(error)

    def encode_args(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> bytes:
        """Arguments of a call as a JSON object by name. Raises `BadValue` if they do not fit the signature."""
        try:
            given = inspect.signature(self.function).bind(*args, **keywords).arguments
            raw = msgspec.json.encode(given, enc_hook=models.to_plain)
        except Exception as error:
            raise BadValue(f"{self.function.__name__}(): {error}") from error
        self.decode_args(raw)
        return raw

    def decode_args(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """Arguments by name, of the annotated types; missing or null ones take their defaults. Raises `BadValue`."""
        try:
            given = self._args_decoder.decode(raw)
        except Exception as error:  # A class of the author's may raise anything while one is made of it.
            raise BadValue(
                f"the arguments of {self.function.__name__}() do not fit: {self._said(error)}"
            ) from error
        return {name: self._given(name, getattr(given, name)) for name in self._parameters}

    def _given(self, name: str, value: Any) -> Any:
        default = self._parameters[name].default
        if _is_required(self._parameters[name]):
            return value
        lacks_none = value is None and name not in self._admit_none
        return default if value is msgspec.UNSET or lacks_none else value

    @cached_property
    def _admit_none(self) -> frozenset[str]:
        """The parameters that may be None; where others are, they take their default."""
        table = self.book.table()
        return frozenset(each.name for each in self.params if table.codec(each.type).mismatch(None) is None)

    def encode_result(self, value: Any) -> bytes:
        """A result as JSON. Raises `BadValue` for what JSON cannot say or what is not of the return type."""
        return self._result.encode(value)

    def decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        """The result of the annotated type. Raises `BadValue`."""
        return self._result.decode(raw)


def _is_required(parameter: inspect.Parameter) -> bool:
    """Whether it has no value of its own."""
    return parameter.default is parameter.empty or parameter.default is INHERITED


def _blamed(function: Callable[..., Any], error: NameError) -> str:
    """The parameter whose annotation holds the name that cannot be resolved."""
    for name, annotation in function.__annotations__.items():
        if isinstance(annotation, str) and error.name and error.name in annotation:
            return name
    return ""


def _namespace_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that a nested function's annotations may use: its closure, and the locals around its definition."""
    code: CodeType = function.__code__
    return {**locals_around(function.__qualname__, code.co_filename), **closure_of(function)}


def closure_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The variables of enclosing functions that a function uses, as far as they have values yet."""
    code: CodeType = function.__code__
    names: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue
    return names
