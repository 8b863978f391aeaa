"""Compiled functions that become machine code only as part of those that Python calls.

numba makes each function a library of its own: with wrappers for Python and C, optimised together with everything it calls, made
into machine code and kept on disk, whether or not anybody calls it but other compiled code, which takes its intermediate code
in. In a loop of a hundred functions the innermost is so compiled dozens of times. Here a function that compiled code calls is
translated to intermediate code only, a part; the function that Python calls takes all its parts in, and is optimised and made
into machine code once. That halves the time, and the result is as fast: the optimiser sees the same code.

One that both call is compiled both ways, the second when it is first called. No function may make an array, or give Python one:
then there are no references to be counted, which was a fifth of what there was to compile.
"""

from __future__ import annotations

from typing import Any, ClassVar

from numba.core import (
    codegen,
    compiler,
    compiler_machinery,
    dispatcher,
    event,
    registry,
    sigutils,
    typed_passes,
    types,
    typing,
)

# numba has no types.
_Library: Any = codegen.JITCodeLibrary
_Lowering: Any = typed_passes.NativeLowering
_Tuple: Any = types.BaseTuple
_Typing: Any = typed_passes.NopythonTypeInference
_Compiler: Any = compiler.Compiler
_Dispatcher: Any = registry.CPUDispatcher
_numba: Any = dispatcher
_templates: Any = typing
_register_pass: Any = compiler_machinery.register_pass
_signatures: Any = sigutils


class _PartLibrary(_Library):  # type: ignore[misc]
    """Code that is there to be linked into other code."""

    def finalize(self) -> None:
        """Take in what it calls, and leave it at that."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


class _WholeLibrary(_Library):  # type: ignore[misc]
    """Code of a function that Python calls."""

    def _optimize_final_module(self) -> None:
        """Once. numba does it twice, with a search for pairs of reference counts between; here are none."""
        passes, builder = self._codegen._module_pass_manager()
        with self._recorded_timings.record("Module passes", builder):
            passes.run(self._final_module, builder)


def _has_array(kind: Any) -> bool:
    inner = kind if isinstance(kind, _Tuple) else ()
    return isinstance(kind, types.Array) or any(_has_array(each) for each in inner)


class _Part:
    """By which numba finds a part where it would have the address of a function."""


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
        super().run_pass(state)
        part = _Part()
        state.targetctx.insert_user_function(part, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=part)
        return True


class _WholeCompiler(_Compiler):  # type: ignore[misc]
    own: ClassVar[dict[Any, Any]] = {_Lowering: _WholeLowering}

    def define_pipelines(self) -> list[Any]:
        (passes,) = super().define_pipelines()
        passes.passes = [(self.own.get(kind, kind), description) for kind, description in passes.passes]
        passes.finalize()
        return [passes]


class _PartCompiler(_WholeCompiler):
    own: ClassVar[dict[Any, Any]] = {_Typing: _ViewTyping, _Lowering: _PartLowering}


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
