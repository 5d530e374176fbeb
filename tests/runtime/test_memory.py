"""The largest batch that fits is found, and only a lack of memory counts."""

import pytest

from recbole_llm.runtime import memory


def test_largest_that_fits_is_exact():
    for most in (1, 2, 7, 16):
        for limit in range(most + 2):
            assert memory.largest_that_fits(most, lambda n, limit=limit: n <= limit) == min(limit, most)


def test_only_a_lack_of_memory_counts_as_not_fitting():
    def fits(n):
        if n > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return True

    assert memory.largest_that_fits(5, fits) == 2
    with pytest.raises(RuntimeError, match="other"):
        memory.largest_that_fits(2, lambda n: (_ for _ in ()).throw(RuntimeError("other")))
