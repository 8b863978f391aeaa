"""The forwarding pipeline configurations of a device (P4Runtime specification, sections 7, 14 and 15)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from switchml.errors import SwitchMLError
from switchml.p4runtime.refusals import invalid, not_found, precondition, unimplemented
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4info_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.reconciliation import carry_over
from switchml.switch_emulator.runtime import Device


@dataclass(frozen=True)
class _Config:
    p4info: bytes
    program: bytes
    cookie: int | None


@dataclass(frozen=True)
class _Saved:
    """pipeline: what requests mean until COMMIT; None where the device has room for one pipeline only."""

    config: _Config
    pipeline: PipelineContext | None


class PipelineConfigs:
    """Configurations of one device: in force, and saved but not in force. Calls come from one thread at a time."""

    def __init__(self, device: Device[Any]) -> None:
        self._device = device
        self._saved: _Saved | None = None
        self._cookie: int | None = None
        self._cookie_of = b""  # the P4Info that came with the cookie
        self._seen = b""
        self._pipeline: PipelineContext | None = None
        self._lock = threading.Lock()

    def pipeline(self) -> PipelineContext:
        """The pipeline in force. Raises FAILED_PRECONDITION while there is none."""
        p4info = self._device.p4info
        if not p4info:
            raise precondition("there is no pipeline: call SetForwardingPipelineConfig first")
        runtime = self._device.runtime
        with self._lock:
            if self._pipeline is None or self._pipeline.runtime is not runtime or p4info != self._seen:
                self._pipeline = PipelineContext(Schema.parse(p4info), runtime)
                self._seen = p4info
            return self._pipeline

    def for_requests(self) -> PipelineContext:
        """What Read and Write mean: the pipeline in force or, between a VERIFY_AND_SAVE and its COMMIT, the saved one. Raises
        as `pipeline`, and UNIMPLEMENTED where the device can't have a saved one.
        """
        if self._saved is None:
            return self.pipeline()
        if self._saved.pipeline is None:
            raise unimplemented("a saved configuration waits for COMMIT; entities can't be used before that")
        return self._saved.pipeline

    def set(self, action: str, config: Any | None) -> None:
        """SetForwardingPipelineConfig; `config` is its message, None when not set. It may take seconds."""
        if action == "COMMIT":
            if config is not None:
                raise invalid("COMMIT puts the saved configuration in force: leave config unset")
            if self._saved is None:
                raise not_found("no configuration is saved; VERIFY_AND_SAVE comes first")
            if self._saved.pipeline is None:
                self._commit(self._saved.config)
            else:
                self._install(self._saved.config, self._saved.pipeline)
            return
        if action not in ("VERIFY", "VERIFY_AND_SAVE", "VERIFY_AND_COMMIT", "RECONCILE_AND_COMMIT"):
            raise invalid("the action is not set")
        if config is None or not config.HasField("p4info"):
            raise invalid(f"{action} wants a config with a P4Info")
        wanted = _Config(
            config.p4info.SerializeToString(deterministic=True),
            config.p4_device_config,
            config.cookie.cookie if config.HasField("cookie") else None,
        )
        if action == "VERIFY_AND_COMMIT":
            self._commit(wanted)
        elif action == "RECONCILE_AND_COMMIT":
            self._reconcile(wanted)
        elif action == "VERIFY_AND_SAVE":
            self._saved = _Saved(wanted, self._stage(wanted))
        else:
            self._take(wanted, self._device.verify)

    def get(self, response: str) -> Any:
        """GetForwardingPipelineConfig; `response` is the response type by name."""
        reply = pb.GetForwardingPipelineConfigResponse()
        p4info = self._device.p4info
        if not p4info:
            return reply
        reply.config.SetInParent()
        if response in ("ALL", "P4INFO_AND_COOKIE"):
            reply.config.p4info.ParseFromString(p4info)
        if response in ("ALL", "DEVICE_CONFIG_AND_COOKIE"):
            reply.config.p4_device_config = self._device.config
        if self._cookie is not None and p4info == self._cookie_of:
            reply.config.cookie.cookie = self._cookie
        return reply

    def _take(self, config: _Config, take: Callable[[bytes, bytes], Any]) -> Any:
        """Verifies, stages or commits. A refusal is INVALID_ARGUMENT, whatever it was: so the specification says."""
        try:
            Schema.parse(config.p4info)
            return take(config.p4info, config.program)
        except SwitchMLError as error:
            raise invalid(f"the pipeline can't be taken: {error}") from error

    def _stage(self, config: _Config) -> PipelineContext | None:
        """A pipeline beside the one in force; None, and only verified, where the device can't have it."""
        if not self._device.has_room:
            self._take(config, self._device.verify)
            return None
        return PipelineContext(Schema.parse(config.p4info), self._take(config, self._device.stage))

    def _commit(self, config: _Config) -> None:
        """A device verifies before it commits."""
        self._take(config, self._device.commit)
        self._in_force(config, None)  # tables and state are empty, so what was remembered of them is void

    def _install(self, config: _Config, pipeline: PipelineContext) -> None:
        self._take(config, lambda p4info, program: self._device.install(p4info, program, pipeline.runtime))
        self._in_force(config, pipeline)

    def _in_force(self, config: _Config, pipeline: PipelineContext | None) -> None:
        self._saved = None
        self._cookie, self._cookie_of = config.cookie, self._device.p4info
        with self._lock:
            self._pipeline, self._seen = pipeline, self._device.p4info

    def _reconcile(self, config: _Config) -> None:
        """State is kept. That it can't be is INVALID_ARGUMENT too."""
        if not self._device.p4info:
            self._commit(config)
            return
        known = p4info_pb2.P4Info.FromString(self._device.p4info).SerializeToString(deterministic=True)
        if (known, self._device.config) == (config.p4info, config.program):
            self._in_force(config, self._pipeline)
            return
        staged = self._stage(config)
        if staged is None:
            raise unimplemented(
                "this device can't keep the state of one pipeline for another; use VERIFY_AND_COMMIT"
            )
        carry_over(self.pipeline(), staged)
        self._install(config, staged)
