"""Hypothesis over every decoder: anything, good inputs bent a little, and JSON of every shape."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import TARGETS  # pyright: ignore[reportMissingImports]

ODD = ["", "\x00", "\u202e", "é", "$decimal", "$set", "$record", "a.b", "*", ">", "9" * 30, "\U0001f40e"]
KEYS = [
    "kind",
    "op",
    "type",
    "name",
    "value",
    "nodes",
    "next",
    "output",
    "failure",
    "details",
    "args",
    "run_id",
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(ODD),
    st.text(max_size=5),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS + ODD), st.text(max_size=3)), inner, max_size=4),
    ),
    max_leaves=12,
)


@st.composite
def bent(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input with some of its bytes cut, doubled or replaced."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        middle = draw(
            st.one_of(
                st.just(b""),
                st.just(data[start:end] * 2),
                st.binary(max_size=4),
                trees.map(msgspec.json.encode),
                st.sampled_from(
                    [b"null", b"-1", b"1e999", b'""', b"[[", b"}}", b"\\ud800", b"\xff", b"9" * 40]
                ),
            )
        )
        data = data[:start] + middle + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_decoder_breaks_no_promise(name: str, data: st.DataObject) -> None:
    fuzzed = TARGETS[name]
    fuzzed.target(
        data.draw(st.one_of(st.binary(max_size=60), bent(fuzzed.seeds), trees.map(msgspec.json.encode)))
    )


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_inputs_are_good(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].target(seed)
