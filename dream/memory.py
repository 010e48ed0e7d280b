"""Memory: what there is, and errors of too little of it as one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dream.errors import ConfigError, DREAMError

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
_SAID = re.compile(
    r"allocate memory|not enough memory|out of memory|Unable to allocate|Storage size calculation overflowed"
    r"|multiplication overflow|Overflow when unpacking|array is too big|Maximum allowed (?:size|dimension)"
    r"|too large to convert to C|int too (?:big|large) to convert|numel: integer|bad_alloc"
    r"|CUBLAS_STATUS_ALLOC_FAILED|invalid buffer size|cannot allocate",
    re.IGNORECASE,
)


_MUCH = 2**28  # bytes; less is not compared with what there is, which takes time
_UNUSED = 2**31 + 2**26 * (os.cpu_count() or 1)  # bytes that libraries reserve: pools, and stacks of threads


def exhausted(error: BaseException | None) -> bool:
    """Whether an error says that there is not enough memory, or that a size is beyond any.

    Its cause and context are looked at, too.
    """
    if isinstance(error, DREAMError):
        return False
    while error is not None:
        sizes = isinstance(error, RuntimeError | OverflowError | ValueError | TypeError | OSError)
        if isinstance(error, MemoryError) or (sizes and _SAID.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


def limit() -> int | None:
    """Bytes that this process may use, by machine, container and limits; None if unknown."""
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in map(Path, _LIMITS):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    if resource is not None:
        kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
        found += [soft for soft, _ in map(resource.getrlimit, kinds) if soft != resource.RLIM_INFINITY]
    return min(found, default=None)


def shown_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    if count.bit_length() > 200:
        return "more than any machine has"
    for power, unit in ((6, "EiB"), (5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB")):
        if count >= 1024**power:
            size = count / 1024**power
            return f"{size:.3g} {unit}"
    return f"{count:,} bytes"


def there_is() -> str:
    """The part of a sentence that tells how much memory there is."""
    most = limit()
    return "there is not as much" if most is None else f"this process may use {shown_bytes(most)}"


class enough:  # noqa: N801 - a context manager, made for every call of a layer
    """Turn errors of too little memory in a block into one sentence.

    Args:
        what: Returns the arguments that need the memory, with their values.
        remedy: A sentence that says what to do.
        needed: Bytes that the block is sure to need on the CPU; 0 if not known.
        key: The argument to name on a command line.

    Raises:
        ConfigError: there is less memory than `needed`, or the block ran out of it.
    """

    def __init__(
        self, what: Callable[[], str], remedy: str, needed: int = 0, *, key: str | None = None
    ) -> None:
        self.what = what
        self.remedy = remedy
        self.needed = needed
        self.key = key

    def __enter__(self) -> None:
        if self.needed > _MUCH and (most := limit()) is not None and self.needed > most:
            raise self._error()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        sizes = MemoryError, RuntimeError, OverflowError, TypeError, ValueError
        if isinstance(error, sizes) and exhausted(error):
            raise self._error() from error

    def _error(self) -> ConfigError:
        amount = f"at least {shown_bytes(self.needed)}" if self.needed else "more than is left"
        return ConfigError(
            f"{self.what()} must fit into memory; they take {amount}, and {there_is()}. {self.remedy}",
            key=self.key,
        )


def _reserved() -> int:
    """Bytes that this process may write to and has not used; 0 if unknown."""
    try:
        _, resident, shared, _, _, data, _ = map(int, Path("/proc/self/statm").read_text().split())
    except (OSError, ValueError):  # no Linux
        return 0
    return max(data - (resident - shared), 0) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def within_machine() -> Iterator[None]:
    """Let an allocation beyond the memory of the machine fail in this block.

    Linux gives more than there is, and kills the process that uses it. What libraries have reserved and never
    use counts like the rest, so there is room for that, and for more of it.
    """
    most = limit()
    if most is None or resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (most + _reserved() + _UNUSED, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
