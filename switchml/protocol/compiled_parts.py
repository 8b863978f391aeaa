"""Compiled functions that become machine code only as part of those that Python calls.

numba makes each function a library of its own: with wrappers for Python and C, optimised together with everything it calls, made
into machine code and kept on disk, whether or not anybody calls it but other compiled code, which takes its intermediate code
in. In a loop of a hundred functions the innermost is so compiled dozens of times. Here a function that compiled code calls is
translated to intermediate code only, a part; the function that Python calls takes all its parts in, and is optimised and made
into machine code once. That halves the time, and the result is as fast: the optimiser sees the same code.

numba's own functions (`int()`, `view()`) become parts as well, while one of ours is compiled.

One that both call is compiled both ways, the second when it is first called. No function may make an array, or give Python one:
then there are no references to be counted, which was a fifth of what there was to compile.

This takes names of numba's that are its own: where one is missing, jit.py does without this file. Whatever is changed for a while
is changed under the lock that numba holds while it compiles, so threads and other libraries that compile wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import (
    codegen,
    compiler,
    compiler_lock,
    compiler_machinery,
    decorators,
    dispatcher,
    event,
    registry,
    sigutils,
    target_extension,
    typed_passes,
    types,
    typing,
)

# numba has no types.
_make_function: Any = _dynfunc.make_function
_Library: Any = codegen.JITCodeLibrary
_Lowering: Any = typed_passes.NativeLowering
_Tuple: Any = types.BaseTuple
_Typing: Any = typed_passes.NopythonTypeInference
_Compiler: Any = compiler.Compiler
_PlainFlags: Any = compiler.Flags
_Dispatcher: Any = registry.CPUDispatcher
_numba: Any = dispatcher
_templates: Any = typing
_register_pass: Any = compiler_machinery.register_pass
_signatures: Any = sigutils
_codegen: Any = codegen
_binding: Any = _codegen.ll
_jits: Any = target_extension.jit_registry
_cpu: Any = target_extension.cpu_target

# Passes for closures, `with`, expressions that make arrays, functions that are expanded as Python, and types that depend on the
# value of a literal. None of it is in our loops, and to look for it is a tenth of the time. By name: a numba may lack one.
_FOR_WHAT_IS_NOT_HERE = frozenset(
    {
        "with_lifting",
        "inline_closure_likes",
        "make_function_op_code_to_jit_function",
        "inline_inlinables",
        "find_literally",
        "literal_unroll",
        "LiteralPropagation",
        "inline_overloads",
        "nopython_rewrites",
        "dump_parfor_diagnostics",
    }
)


class _PartLibrary(_Library):  # type: ignore[misc]
    """Code that is there to be linked into other code."""

    _shared_module: Any
    _linking_libraries: list[Any]

    def _optimize_functions(self, ll_module: Any) -> None:
        """Nothing: whoever takes the code in does that."""
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        """Make it fit for being linked in more than once, and leave it at that."""
        self._raise_if_finalized()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == _binding.Linkage.external:
                function.linkage = "linkonce_odr"
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """For code that is not of this file: with all that it calls."""
        if self._shared_module is None:
            whole = self._final_module.clone()
            _link(whole, _reached(self._linking_libraries))
            self._shared_module = whole
        return self._shared_module


def _reached(libraries: list[Any]) -> dict[Any, None]:
    """Those libraries and all that they call, each once."""
    found: dict[Any, None] = {}
    left = list(reversed(libraries))
    while left:
        library = left.pop()
        if library not in found:
            found[library] = None
            if isinstance(library, _PartLibrary):
                left += reversed(library._linking_libraries)
    return found


def _link(module: Any, libraries: dict[Any, None]) -> None:
    for library in libraries:
        is_part = isinstance(library, _PartLibrary)
        code = library._final_module if is_part else library._get_module_for_linking()
        module.link_in(code, preserve=True)


class _WholeLibrary(_Library):  # type: ignore[misc]
    """Code of a function that Python calls."""

    _linking_libraries: list[Any]
    _optimize_functions = _PartLibrary._optimize_functions

    def finalize(self) -> None:
        """Take in all that it calls, each once however many call it."""
        reached = _reached(self._linking_libraries)
        for library in reached:
            self._reload_init.update(library._reload_init)
        _link(self._final_module, reached)
        self._linking_libraries = []
        super().finalize()

    def _optimize_final_module(self) -> None:
        """Once. numba does it twice, with a search for pairs of reference counts between; here are none."""
        passes, builder = self._codegen._module_pass_manager()
        with self._recorded_timings.record("Module passes", builder):
            passes.run(self._final_module, builder)


def _has_array(kind: Any) -> bool:
    inner = kind if isinstance(kind, _Tuple) else ()
    return isinstance(kind, types.Array) or any(_has_array(each) for each in inner)


@_register_pass(mutates_CFG=True, analysis_only=False)
class _ViewTyping(_Typing):  # type: ignore[misc]
    """Arrays may be returned though nobody counts references: they are views of memory that the caller keeps."""

    _name = "switchml_view_typing"

    def run_pass(self, state: Any) -> Any:
        state.targetctx.enable_nrt = True
        try:
            return super().run_pass(state)
        finally:
            state.targetctx.enable_nrt = False


@_register_pass(mutates_CFG=True, analysis_only=False)
class _WholeLowering(_Lowering):  # type: ignore[misc]
    _name = "switchml_whole_lowering"

    def run_pass(self, state: Any) -> Any:
        if _has_array(state.return_type):
            raise TypeError(
                f"{state.func_id.func_qualname} returns an array: to compiled code it may, but not to Python"
            )
        state.library = _WholeLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@_register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(_Lowering):  # type: ignore[misc]
    _name = "switchml_part_lowering"

    def run_pass(self, state: Any) -> Any:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        super().run_pass(state)
        # By which numba finds it, in place of a function that Python could call.
        name, told = state.func_id.func_name, "a part of compiled code"
        part = _make_function(state.cr.fndesc.lookup_module(), name, told, 0, state.cr.env, (state.library,))
        state.targetctx.insert_user_function(part, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=part)
        return True


@contextlib.contextmanager
def _parts_of_numba() -> Iterator[None]:
    """What numba itself writes in Python (`int()` is a function of it) becomes parts too.

    Others' compiled code that calls the same function takes the part in as it would the function: references are counted in it.
    """
    with compiler_lock.global_compiler_lock:
        usual = _jits[_cpu]
        _jits.update({_cpu: partial(decorators.jit, pipeline_class=_ForeignCompiler)})
        try:
            yield
        finally:
            _jits.update({_cpu: usual})


class _Flags(_PlainFlags):  # type: ignore[misc]
    """A caller's flags, by which numba looks for what it has made of its own functions: for each call, among all there are.

    Those that are equal are one object here, for to compare them is a fourteenth of the time; and those that its functions do
    not take over are the same in all, or it makes the same function twice.
    """

    __slots__ = ()
    _all: ClassVar[list[_Flags]] = []
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def copy(self) -> _Flags:
        """What numba looks by while this is compiled."""
        found = _Flags(self)
        found.no_cpython_wrapper = found.no_cfunc_wrapper = found.no_compile = True
        for known in self._all:
            if known.values() == found.values():
                return known
        self._all.append(found)
        return found


class _PartsCompiler(_Compiler):  # type: ignore[misc]
    own: ClassVar[dict[Any, Any]]
    without: ClassVar[frozenset[str]] = _FOR_WHAT_IS_NOT_HERE

    def __init__(
        self,
        typingctx: Any,
        targetctx: Any,
        library: Any,
        args: Any,
        return_type: Any,
        flags: Any,
        locals: Any,
    ) -> None:
        super().__init__(typingctx, targetctx, library, args, return_type, _Flags(flags), locals)

    def define_pipelines(self) -> list[Any]:
        (passes,) = super().define_pipelines()
        passes.passes = [
            (self.own.get(kind, kind), description)
            for kind, description in passes.passes
            if kind.name() not in self.without
        ]
        passes.finalize()
        return [passes]


class _WholeCompiler(_PartsCompiler):
    own: ClassVar[dict[Any, Any]] = {_Lowering: _WholeLowering}

    def compile_extra(self, func: Any) -> Any:
        with _parts_of_numba():
            return super().compile_extra(func)


class _PartCompiler(_PartsCompiler):
    own: ClassVar[dict[Any, Any]] = {_Typing: _ViewTyping, _Lowering: _PartLowering}


class _ForeignCompiler(_PartsCompiler):
    without: ClassVar[frozenset[str]] = frozenset()
    own: ClassVar[dict[Any, Any]] = {_Lowering: _PartLowering}


class PartDispatcher(_Dispatcher):  # type: ignore[misc]
    """What stands for a compiled function: for Python as numba's own, for compiled code a part.

    Args:
        function: in Python.
        options: those of `numba.njit`.
    """

    def __init__(self, function: Any, locals: Any = None, targetoptions: Any = None) -> None:
        super().__init__(function, locals=locals, targetoptions=targetoptions, pipeline_class=_WholeCompiler)
        options = {**self.targetoptions, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        self._part_compiler = _numba._FunctionCompiler(
            function, self.targetdescr, options, self.locals, _PartCompiler
        )
        self._parts: dict[tuple[Any, ...], Any] = {}

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What numba asks for the type of a call in compiled code."""
        signature, args = self._part_compiler.fold_argument_types(args, kws)
        # A constant is no type of its own: a part for 0 and one for integers would be the same twice.
        args = tuple(types.unliteral(arg) for arg in args)
        name = self.py_func.__name__
        template = _templates.make_concrete_template(name, key=name, signatures=[self._part(args).signature])
        return template, signature, args, {}

    def get_overload(self, sig: Any) -> Any:
        """What numba asks for the code of such a call."""
        return self._part(tuple(_signatures.normalize_signature(sig)[0])).entry_point

    def _part(self, args: tuple[Any, ...]) -> Any:
        if args not in self._parts:
            details = {"dispatcher": self, "args": args, "return_type": None}
            with self._compiling_counter, event.trigger_event("numba:compile", data=details):
                self._parts[args] = self._part_compiler.compile(args, None)
        return self._parts[args]
