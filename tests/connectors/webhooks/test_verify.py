"""Who may send: examples that the schemes' owners publish, and everything that is not quite one."""

from __future__ import annotations

import hmac
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dressage.connectors.http.exchange import Headers
from dressage.connectors.webhooks.verify import (
    TOLERANCE_S,
    HmacSha256,
    SecretInvalid,
    Standard,
    Stripe,
    Unsigned,
    Verifier,
)

NOW = 1_614_265_330
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
SIGNED: Headers = [
    (b"webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek"),
    (b"webhook-timestamp", b"1614265330"),
    (b"webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
]
GITHUB = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""What GitHub's documentation has for "Hello, World!" and this secret."""

BY_GITHUB = HmacSha256(["It's a Secret to Everybody"], "X-Hub-Signature-256", "sha256=")


def replaced(headers: Headers, name: bytes, value: bytes | None) -> Headers:
    others = [pair for pair in headers if pair[0] != name]
    return others if value is None else [*others, (name, value)]


def test_the_published_example_of_standard_webhooks() -> None:
    assert Standard([SECRET]).accepts(SIGNED, BODY, NOW)
    assert Standard([SECRET.removeprefix("whsec_")]).accepts(SIGNED, BODY, NOW)


def test_the_published_example_of_github() -> None:
    assert BY_GITHUB.accepts([(b"x-hub-signature-256", GITHUB)], b"Hello, World!", NOW)
    large = GITHUB[:7] + GITHUB[7:].upper()
    assert BY_GITHUB.accepts([(b"x-hub-signature-256", large)], b"Hello, World!", NOW)


@pytest.mark.parametrize(
    "given", [b"", GITHUB[7:], GITHUB[:-1], GITHUB + b"0", b" " + GITHUB, GITHUB.replace(b"sha256", b"sha1")]
)
def test_what_is_not_quite_a_signature_is_none(given: bytes) -> None:
    assert not BY_GITHUB.accepts([(b"x-hub-signature-256", given)], b"Hello, World!", NOW)


def test_a_signature_in_base64() -> None:
    verifier = HmacSha256(["secret"], "X-Shop-Hmac", encoding="base64")
    signature = b64encode(hmac.digest(b"secret", BODY, "sha256"))
    assert verifier.accepts([(b"x-shop-hmac", signature)], BODY, NOW)
    assert not verifier.accepts([(b"x-shop-hmac", signature.lower())], BODY, NOW)
    assert not verifier.accepts([(b"x-shop-hmac", signature)], BODY + b" ", NOW)


def stripe(body: bytes, at: int = NOW, key: bytes = b"whsec_x") -> bytes:
    return b"t=%d,v1=%b" % (at, hmac.digest(key, b"%d.%b" % (at, body), "sha256").hex().encode())


def test_the_scheme_of_stripe() -> None:
    verifier = Stripe(["whsec_x"])

    def accepts(header: bytes) -> bool:
        return verifier.accepts([(b"stripe-signature", header)], BODY, NOW)

    good = stripe(BODY)
    assert accepts(good)
    assert accepts(good + b",v0=00,v1=00")
    assert accepts(b"v1=00," + good)
    for wrong in (
        stripe(BODY, key=b"other"),
        stripe(BODY + b" "),
        stripe(BODY, at=NOW - TOLERANCE_S - 1),
        good.replace(b"v1=", b"v0="),
        good + b",t=%d" % NOW,
        good.removeprefix(b"t=%d," % NOW),
    ):
        assert not accepts(wrong)


@pytest.mark.parametrize("seconds", [-TOLERANCE_S, TOLERANCE_S])
def test_a_time_counts_for_five_minutes_before_and_after_it(seconds: int) -> None:
    beyond = seconds + (1 if seconds > 0 else -1)
    assert Standard([SECRET]).accepts(SIGNED, BODY, NOW + seconds)
    assert not Standard([SECRET]).accepts(SIGNED, BODY, NOW + beyond)


def test_while_a_secret_is_changed_both_count_on_either_side() -> None:
    """Several secrets here, and several signatures there."""
    other = "whsec_" + b64encode(b"another key of theirs").decode()
    assert Standard([other, SECRET]).accepts(SIGNED, BODY, NOW)
    assert not Standard([other]).accepts(SIGNED, BODY, NOW)
    several = replaced(SIGNED, b"webhook-signature", b"v1,AAAA v1a,BBBB " + SIGNED[2][1])
    assert Standard([SECRET]).accepts(several, BODY, NOW)
    assert not Standard([SECRET]).accepts(
        replaced(SIGNED, b"webhook-signature", b"v1,AAAA v1a,BBBB"), BODY, NOW
    )


@pytest.mark.parametrize("name", [name for name, _ in SIGNED])
def test_a_header_that_is_missing_or_comes_twice_proves_nothing(name: bytes) -> None:
    assert not Standard([SECRET]).accepts(replaced(SIGNED, name, None), BODY, NOW)
    twice = [*SIGNED, *(pair for pair in SIGNED if pair[0] == name)]
    assert not Standard([SECRET]).accepts(twice, BODY, NOW)
    large = [(name.title(), value) for name, value in SIGNED]
    assert Standard([SECRET]).accepts(large, BODY, NOW)


def signed_standard(event_id: bytes, time: bytes, body: bytes) -> Headers:
    key = Standard([SECRET])._keys[0]
    signature = b64encode(hmac.digest(key, b"%b.%b.%b" % (event_id, time, body), "sha256"))
    return [
        (b"webhook-id", event_id),
        (b"webhook-timestamp", time),
        (b"webhook-signature", b"v1," + signature),
    ]


def test_the_border_between_id_time_and_body_cannot_be_moved() -> None:
    """Whoever can make a body be signed must not get an id of his choice from it."""
    time = b"%d" % NOW
    inner = b"x.%b.{}" % time
    whole = signed_standard(b"a", time, inner)
    assert Standard([SECRET]).accepts(whole, inner, NOW)
    moved = replaced(whole, b"webhook-id", b"a.%b.x" % time)
    assert not Standard([SECRET]).accepts(moved, b"{}", NOW)


@pytest.mark.parametrize(
    "time", [b"", b"-1", b"+1614265330", b" 1614265330", b"1614265330.0", b"1e9", b"9" * 400]
)
def test_a_time_is_digits(time: bytes) -> None:
    assert not Standard([SECRET]).accepts(signed_standard(b"a", time, BODY), BODY, NOW)


@pytest.mark.parametrize("event_id", [b"", b"a b", b"a.b", b"\xff", b"a\n", b"a" * 257])
def test_an_id_is_visible_characters(event_id: bytes) -> None:
    assert not Standard([SECRET]).accepts(signed_standard(event_id, b"%d" % NOW, BODY), BODY, NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no-base64!", "whsec_abcde", "ключ"])
def test_a_secret_of_standard_webhooks_that_cannot_be_one_is_refused_unseen(secret: str) -> None:
    with pytest.raises(SecretInvalid) as refused:
        Standard([secret])
    given = secret.removeprefix("whsec_")
    assert not given or given not in refused.value.message


def test_an_empty_secret_is_refused() -> None:
    for make in (lambda: Stripe([""]), lambda: HmacSha256(["ok", ""], "x")):
        with pytest.raises(SecretInvalid):
            make()


VERIFIERS: list[Verifier] = [
    Standard([SECRET]),
    Stripe(["k"]),
    BY_GITHUB,
    HmacSha256(["k"], "x", encoding="base64"),
]
NAMES = st.sampled_from(
    [
        b"webhook-id",
        b"webhook-timestamp",
        b"webhook-signature",
        b"stripe-signature",
        b"x-hub-signature-256",
        b"x",
    ]
)
VALUES = st.one_of(
    st.binary(max_size=80), st.sampled_from([b"%d" % NOW, b"t=%d,v1=" % NOW, b"v1,", GITHUB, b"sha256="])
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.binary(max_size=100))
def test_nothing_is_accepted_that_nobody_signed(headers: Headers, body: bytes) -> None:
    assert not any(each.accepts(headers, body, NOW) for each in VERIFIERS if body != b"Hello, World!")
    assert Unsigned().accepts(headers, body, NOW)


@given(st.binary(max_size=200), st.integers(0, 255), st.data())
def test_one_other_byte_is_another_body(body: bytes, byte: int, data: st.DataObject) -> None:
    headers = signed_standard(b"a", b"%d" % NOW, body)
    assert Standard([SECRET]).accepts(headers, body, NOW)
    at = data.draw(st.integers(0, len(body)))
    other = body[:at] + bytes([byte]) + body[at + data.draw(st.integers(0, 1)) :]
    assert Standard([SECRET]).accepts(headers, other, NOW) == (other == body)
