"""Encodings are kept within bytes, made once for many callers, and never shared by mistake."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.cancellation import Cancellation, cancelled_by
from secondlook.labeling import encoding_cache
from secondlook.labeling.encoding_cache import EncodingCache
from secondlook.labeling.segmenter import ImageEncoding
from secondlook_client.errors import Cancelled, Damaged


def encoding(nbytes: int = 10) -> ImageEncoding:
    return ImageEncoding((4, 3), object(), nbytes)


def waiting(count: int, cache: EncodingCache, key: tuple[str, str]) -> None:
    """Until ``count`` callers wait for what is being made under ``key``."""
    future = cache._coming[key]
    for _ in range(2000):
        if len(future._condition._waiters) >= count:  # type: ignore[attr-defined]
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody waits")


def test_an_encoding_is_made_once() -> None:
    cache, made = EncodingCache(100), encoding()
    assert cache.get("a", "m") is None
    assert cache.get_or_encode("a", "m", lambda: made) is made
    assert cache.get_or_encode("a", "m", encoding) is made
    assert cache.get("a", "m") is made
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.entries, stats.nbytes) == (2, 1, 1, 10)


def test_another_segmenter_has_encodings_of_its_own() -> None:
    cache = EncodingCache(100)
    first = cache.get_or_encode("a", "m", encoding)
    assert cache.get_or_encode("a", "other", encoding) is not first
    assert cache.stats.misses == 2


def test_the_least_recently_used_goes_first() -> None:
    cache = EncodingCache(30)
    for name in "abc":
        cache.get_or_encode(name, "m", encoding)
    cache.get("a", "m")
    cache.get_or_encode("d", "m", encoding)
    assert [cache.get(name, "m") is not None for name in "abcd"] == [True, False, True, True]


@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), max_size=30),
)
def test_it_holds_no_more_bytes_than_it_may(most: int, calls: list[tuple[str, int]]) -> None:
    cache = EncodingCache(most)
    for name, nbytes in calls:
        cache.get_or_encode(name, "m", lambda nbytes=nbytes: encoding(nbytes))
        stats = cache.stats
        kept = [one.nbytes for one in cache._kept.values()]
        assert stats.nbytes == sum(kept) <= most and stats.entries == len(kept)
    assert cache.stats.hits + cache.stats.misses == len(calls)


class Slow:
    """Encodes once it is told to, and counts."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls = 0
        self._failure = failure

    def __call__(self) -> ImageEncoding:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        if self._failure is not None and self.calls == 1:
            raise self._failure
        return encoding()


@pytest.mark.parametrize("kept", [0, 100])
def test_callers_at_the_same_time_share_one_encoding(kept: int) -> None:
    cache, slow = EncodingCache(kept), Slow()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(cache.get_or_encode, "a", "m", slow) for _ in range(4)]
        assert slow.begun.wait(10)
        waiting(3, cache, ("a", "m"))
        slow.go.set()
        assert len({id(call.result()) for call in calls}) == 1
    assert slow.calls == 1
    assert (cache.stats.hits, cache.stats.misses, cache.stats.entries) == (3, 1, kept // 100)


def test_what_fails_fails_for_everyone_and_is_tried_again_later() -> None:
    cache, slow = EncodingCache(100), Slow(Damaged("half a file"))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(cache.get_or_encode, "a", "m", slow) for _ in range(2)]
        assert slow.begun.wait(10)
        waiting(1, cache, ("a", "m"))
        slow.go.set()
        for call in calls:
            with pytest.raises(Damaged, match="half a file"):
                call.result()
    assert slow.calls == 1
    assert cache.get_or_encode("a", "m", slow) is not None


def test_who_gives_up_does_not_take_the_others_along() -> None:
    cache, slow = EncodingCache(100), Slow(Cancelled("given up"))
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get_or_encode, "a", "m", slow)
        assert slow.begun.wait(10)
        others = [pool.submit(cache.get_or_encode, "a", "m", slow) for _ in range(2)]
        waiting(2, cache, ("a", "m"))
        slow.go.set()
        with pytest.raises(Cancelled):
            first.result()
        assert others[0].result() is others[1].result()
    assert slow.calls == 2


def test_who_waits_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_cache, "POLL_S", 0.005)
    cache, slow, cancellation = EncodingCache(100), Slow(), Cancellation()

    def impatient() -> None:
        with cancelled_by(cancellation):
            cache.get_or_encode("a", "m", slow)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_encode, "a", "m", slow)
        assert slow.begun.wait(10)
        second = pool.submit(impatient)
        waiting(1, cache, ("a", "m"))
        cancellation.cancel()
        with pytest.raises(Cancelled):
            second.result(5)
        slow.go.set()
        assert first.result() is not None
