"""Where Redis is, in one line."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw.config import RedisAddress, parse_redis_url
from llmgw.config.redis_url import EXPECTED, move_ca_file

GOOD = {
    "redis://localhost": RedisAddress("single", (("localhost", 6379),)),
    "redis://localhost/": RedisAddress("single", (("localhost", 6379),)),
    "valkey://10.0.0.1:7000/3": RedisAddress("single", (("10.0.0.1", 7000),), db=3),
    "redis://[::1]:6380/0": RedisAddress("single", (("::1", 6380),)),
    "rediss://:pass@h:1": RedisAddress("single", (("h", 1),), password="pass", is_tls=True),
    "valkeys://me:p%40%3Aw%2F@h": RedisAddress(
        "single", (("h", 6379),), user="me", password="p@:w/", is_tls=True
    ),
    "redis://me:p:w@h": RedisAddress("single", (("h", 6379),), user="me", password="p:w"),
    "redis://me@h": RedisAddress("single", (("h", 6379),), user="me"),
    "unix:///run/redis.sock": RedisAddress("unix", path="/run/redis.sock"),
    "unix://me:pw@/run/a%20b?db=2": RedisAddress("unix", path="/run/a b", db=2, user="me", password="pw"),
    "redis+sentinel://a:1,b/main": RedisAddress("sentinel", (("a", 1), ("b", 26379)), service="main"),
    "valkeys+sentinel://u:p@a,b,c:9/my.group_1/15": RedisAddress(
        "sentinel", (("a", 26379), ("b", 26379), ("c", 9)), service="my.group_1", db=15,
        user="u", password="p", is_tls=True,
    ),
    "redis+cluster://a": RedisAddress("cluster", (("a", 6379),)),
    "rediss+cluster://:p@a:1,[fe80::2]:65535/": RedisAddress(
        "cluster", (("a", 1), ("fe80::2", 65535)), password="p", is_tls=True
    ),
    "rediss://h?ssl_ca_certs=/etc/my%20ca.pem&ssl_cert_reqs=none": RedisAddress(
        "single", (("h", 6379),), is_tls=True, ssl_ca_certs="/etc/my ca.pem", ssl_cert_reqs="none"
    ),
    "redis+sentinel://a/main/2?sentinel_password=pass%26more": RedisAddress(
        "sentinel", (("a", 26379),), service="main", db=2, sentinel_password="pass&more"
    ),
}  # fmt: skip
BAD = [
    "", "redis", "redis:", "redis://", "redis:///0", "http://h", "redis://h:0", "redis://h:65536", "redis://h:x",
    "redis://h/x", "redis://h/-1", "redis://h/01", "redis://h/0/1", "redis://h?db=1", "redis://h#0", "redis://a,b",
    "redis://h h", "redis://h\n", "redis://a@b@h", "redis://[::1", "redis://::1", "REDIS://h",
    "unix://", "unix:///", "unix://run/redis.sock", "unix:///s?db=x", "unix:///s?a=1", "redis+unix:///s",
    "redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/s/x", "redis+sentinel:///s", "redis+sentinel://a,/s",
    "redis+cluster://", "redis+cluster://a/0", "redis+cluster://,a", "redis+sentinels://a/s", "unix+cluster://a",
    "redis://h?", "redis://h?nope=1", "redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=some", "rediss://h?ssl_ca_certs=",
    "rediss://h?ssl_cert_reqs=none&ssl_cert_reqs=none", "redis://h?sentinel_password=p", "redis+sentinel://a/s?sentinel_password",
    "unix:///s?db=1&db=2", "unix:///s?db=01", "rediss://h?ssl_ca_certs=/a#b", "rediss://h?ssl_ca_certs=/a&",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_a_good_url_names_this_place(url: str) -> None:
    assert parse_redis_url(url) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_could_mean_two_things_or_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis://host"):
        parse_redis_url(url)


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 60), st.text("@:/?#,[]%sS 0a", max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_refusal_shows_any_of_the_url(url: str, at: int, slip: str) -> None:
    try:
        parse_redis_url(url[:at] + slip + url[at:])
    except ValueError as error:
        assert EXPECTED in str(error)
        assert "pass" not in str(error)


def test_the_password_is_in_no_repr() -> None:
    for url in ("rediss://:pass@h:1", "redis+sentinel://:pass@h/s?sentinel_password=pass"):
        assert "pass" not in repr(parse_redis_url(url))


@pytest.mark.parametrize("url", GOOD)
def test_moving_the_file_of_authorities_changes_nothing_else(url: str) -> None:
    before, after = GOOD[url], parse_redis_url(move_ca_file(url, lambda path: f"/é &#%{path}"))
    assert after == (
        replace(before, ssl_ca_certs=f"/é &#%{before.ssl_ca_certs}") if before.ssl_ca_certs else before
    )


def test_what_only_looks_like_the_option_is_left_alone() -> None:
    url = "rediss://ssl_ca_certs=a:ssl_ca_certs=b@h?ssl_cert_reqs=none"
    assert move_ca_file(url, str.upper) == url
