"""How this project compiles its hot functions.

One source is the fast path, the oracle of the tests and what the checker explores: with `NUMBA_DISABLE_JIT=1`
the same functions run as plain Python.

Machine code is kept on disk, that of functions which Python calls (compiled_parts.py). numba takes it as current while
the function's own file is unchanged, but a function also contains what it calls; here it is current while no file is
changed that its module reaches by imports. So a checkout may be edited anywhere, and what the edit does not reach is
not compiled again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core import caching, registry

_Dispatcher: Any
try:
    from switchml.protocol.compiled_parts import PartDispatcher as _Dispatcher
except (ImportError, AttributeError):
    # This numba is made otherwise inside. Its own way compiles for twice as long, and counts references.
    _Dispatcher, _OPTIONS = registry.CPUDispatcher, {}
else:
    _OPTIONS = {"_nrt": False, "forceinline": False}

P = ParamSpec("P")
R = TypeVar("R")

DISABLED: bool = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parents[1]
_IMPORT = re.compile(
    rf"^(?:from ({_PACKAGE}[\w.]*) import (\([^)]*\)|.*)|import ({_PACKAGE}[\w.]*))", re.MULTILINE
)


def _file_of(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _source(path: Path) -> tuple[bytes, tuple[Path, ...]]:
    """Digest of a source file, and the files of this package that it imports at its top level."""
    text = path.read_text(encoding="utf-8")
    reached = []
    for origin, names, module in _IMPORT.findall(text):
        files = [_file_of(module or origin)]
        files += [_file_of(f"{origin}.{name}") for name in re.findall(r"\w+", names)] if origin else []
        reached += [file for file in files if file is not None]
    return hashlib.sha256(text.encode()).digest(), tuple(reached)


def reached_files(path: Path) -> set[Path]:
    """A source file and all files of this package that it reaches by imports."""
    found, left = {path}, [path]
    while left:
        fresh = set(_source(left.pop())[1]) - found
        found |= fresh
        left += fresh
    return found


@functools.cache
def source_stamp(path: Path) -> bytes:
    """Digest of all that a source file reaches."""
    digest = hashlib.sha256()
    for file in sorted(reached_files(path)):
        digest.update(_source(file)[0])
    return digest.digest()


def _private_folder() -> str:
    """A folder of this user alone in the temporary directory: what lies in a cache is run.

    Raises:
        OSError: it cannot be made, or somebody else made it.
    """
    folder = f"{tempfile.gettempdir()}/switchml-cache-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


class _TemporaryCacheLocator(caching.UserWideCacheLocator):
    """Where neither the package's folder nor the home can be written, as in many containers."""

    def __init__(self, function: Any, file: str) -> None:
        super().__init__(function, file)  # type: ignore[no-untyped-call]
        folder: str = self.get_suitable_cache_subpath(file)  # type: ignore[no-untyped-call]
        self._cache_path = os.path.join(_private_folder(), folder)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        try:
            return super().from_function(py_func, py_file)  # type: ignore[no-untyped-call]
        except OSError:
            return None


def _stamped(locator: Any) -> Any:
    """The locator, with a stamp that covers what the function's module reaches."""

    class Stamped(locator):  # type: ignore[misc]
        def get_source_stamp(self) -> bytes:
            return source_stamp(Path(self._py_file))

    return Stamped


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [  # noqa: RUF012 - numba's own declaration
        _stamped(locator)
        for locator in (
            caching.UserProvidedCacheLocator,
            caching.InTreeCacheLocator,
            caching.UserWideCacheLocator,
            _TemporaryCacheLocator,
        )
    ]


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl


def cache_folder(function: Any) -> str | None:
    """Where the machine code of a compiled function is kept, or None where no folder can be written."""
    return cast("str | None", getattr(function, "_cache", caching.NullCache()).cache_path)


def _compiled(function: Any, **options: Any) -> Any:
    if DISABLED:
        return function
    options = {"nopython": True, "nogil": True, "error_model": "numpy", **_OPTIONS, **options}
    compiled_function: Any = _Dispatcher(function, targetoptions=options)
    with contextlib.suppress(RuntimeError):  # no folder to be had: compile in every process
        compiled_function._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return compiled_function


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code that runs without the GIL.

    What Python calls is cached on disk, with all that it calls; see compiled_parts.py.
    """
    return cast(Callable[P, R], _compiled(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """As `compiled`, and always expanded where it is called: for functions that take a state of many arrays,
    because a call passes every field of every array, hundreds of words, over the stack, and counts a
    reference to each.
    """
    return cast(Callable[P, R], _compiled(function, forceinline=True))
