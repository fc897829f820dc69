"""Whose address a client has: its own, or what a trusted proxy says; never what it calls itself."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.proxies import Proxies

NEAR, FAR, CLIENT = "10.0.0.9", "2001:db8::5", "198.51.100.7"
BEHIND_TWO = Proxies(["10.0.0.0/8", FAR])


def said(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), *((b"x-forwarded-for", value.encode()) for value in values)]


def test_without_trusted_proxies_nobody_says_who_a_client_is():
    nobody = Proxies()
    assert nobody.name("127.0.0.1", "5000", said(CLIENT)) == "127.0.0.1:5000"
    assert nobody.name("::1", "5000", said(CLIENT)) == "[::1]:5000"
    scope = {"type": "http", "client": ("127.0.0.1", 5000), "headers": said(CLIENT)}
    assert nobody.peer_of(scope) == "127.0.0.1:5000"
    assert nobody.peer_of({"type": "http", "client": None, "headers": []}) == "unknown"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([CLIENT], CLIENT),
        ([f"{CLIENT}:61000"], CLIENT),
        ([f"203.0.113.1, {CLIENT}"], CLIENT),
        (["203.0.113.1", f" {CLIENT} "], CLIENT),
        ([f"203.0.113.1,{CLIENT}, {FAR}, 10.1.1.1"], CLIENT),
        ([f"{CLIENT},[{FAR}]:443"], CLIENT),
        ([f"::ffff:{CLIENT}"], CLIENT),
        (["2001:db8::7"], "2001:db8::7"),
        ([f"I am <b>somebody else</b>, {CLIENT}"], CLIENT),
        # Behind a proxy's address stands no client's: the proxy is the one that is known.
        ([f"{CLIENT}, I am <b>somebody else</b>, {FAR}"], FAR),
        ([f"{CLIENT}, unknown"], f"{NEAR}:5000"),
        ([f"{CLIENT}, fe80::1%<b>somebody</b>"], f"{NEAR}:5000"),
        ([f"{CLIENT},"], f"{NEAR}:5000"),
        ([""], f"{NEAR}:5000"),
        ([], f"{NEAR}:5000"),
    ],
)
def test_what_trusted_proxies_say_is_read_from_the_end_and_no_further_than_their_word_reaches(values, name):
    assert BEHIND_TWO.name(NEAR, "5000", said(*values)) == name


def test_who_is_no_trusted_proxy_says_nothing_and_a_socket_of_both_families_is_the_same_proxy():
    assert BEHIND_TWO.name("192.0.2.1", "5000", said(CLIENT)) == "192.0.2.1:5000"
    assert BEHIND_TWO.name(f"::ffff:{NEAR}", "5000", said(CLIENT)) == CLIENT


def test_a_client_that_names_a_thousand_proxies_is_not_followed_through_them():
    assert BEHIND_TWO.name(NEAR, "5000", said(",".join([CLIENT] + ["10.0.0.1"] * 1_000))) == "10.0.0.1"


@given(st.lists(st.sampled_from([NEAR, FAR, CLIENT, "::", "<b>", ",", "%", "[", "]", ":", " ", "\xff"])))
def test_whatever_a_client_writes_it_is_known_by_an_address(parts):
    name = BEHIND_TWO.name(NEAR, "5000", [(b"x-forwarded-for", "".join(parts).encode("latin-1"))])
    assert name == f"{NEAR}:5000" or str(ip_address(name)) == name


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", ""])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits set"):
        Proxies([wrong])
