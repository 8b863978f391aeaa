"""Actions: `Action` and `TableAction` messages and what a runtime takes (P4Runtime specification, section 9.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.bytestrings import decode, encode
from switchml.switch_emulator.p4runtime.p4info import ActionInfo, ProfileInfo, TableInfo
from switchml.switch_emulator.p4runtime.pipeline import Pipeline
from switchml.switch_emulator.p4runtime.refusal import denied, invalid, not_found, unimplemented
from switchml.switch_emulator.runtime import ActionCall, GroupRef, MemberRef, OneShot, TableAction


def parse_action(
    actions: Mapping[int, tuple[ActionInfo, str]], message: Any, what: str, *, default: bool = False
) -> ActionCall:
    """An action of a table or profile. Raises INVALID_ARGUMENT for an action or parameter it has not, or that is missing;
    PERMISSION_DENIED for one out of its place (`default`: the default entry); OUT_OF_RANGE for a value that does not fit."""
    known = actions.get(message.action_id)
    if known is None:
        raise invalid(f"{what} has no action {message.action_id:#x}")
    action, scope = known
    if scope not in ("TABLE_AND_DEFAULT", "DEFAULT_ONLY" if default else "TABLE_ONLY"):
        raise denied(f"{what}: action {action.name} is {scope}")
    values: dict[int, bytes] = {}
    for parameter in message.params:
        if parameter.param_id in values:
            raise invalid(f"{what}: {action.name}: parameter {parameter.param_id} is there twice")
        values[parameter.param_id] = parameter.value
    arguments = []
    for wanted in action.parameters:
        where = f"{what}: {action.name}: {wanted.name}"
        if wanted.id not in values:
            raise invalid(f"{where} is missing")
        arguments.append(decode(values.pop(wanted.id), wanted.width, where))
    if values:
        raise invalid(f"{what}: {action.name} has no parameter {', '.join(map(str, values))}")
    return ActionCall(action.name, tuple(arguments))


def action_message(pipeline: Pipeline, call: ActionCall) -> Any:
    """The message of an action; None for one that is not in the P4Info (the NoAction of a program that does not name it)."""
    action = pipeline.index.actions.by_name.get(call.name)
    if action is None:
        return None
    message = pb.Action(action_id=action.id)
    for parameter, value in zip(action.parameters, call.arguments, strict=True):
        message.params.add(param_id=parameter.id, value=encode(value))
    return message


def parse_table_action(pipeline: Pipeline, table: TableInfo, message: Any) -> TableAction:
    """An entry's action. Raises INVALID_ARGUMENT when it is of another form than the table's implementation wants,
    NOT_FOUND for a member or group that is not there."""
    what = f"table {table.name}"
    kind = message.WhichOneof("type")
    if kind is None:
        raise invalid(f"{what}: the action is not set")
    if (kind == "action") != (table.profile is None):
        wanted = "an action" if table.profile is None else f"a member or group of {table.profile.name}"
        raise invalid(f"{what}: the action is given as {kind}; the table takes {wanted}")
    if table.profile is None:
        return parse_action(table.actions, message.action, what)
    if kind == "action_profile_member_id":
        member = message.action_profile_member_id
        if member not in pipeline.runtime.members(table.profile.name):
            raise not_found(f"{what}: {table.profile.name} has no member {member}")
        return MemberRef(member)
    if not table.profile.selector:
        raise invalid(f"{what}: {table.profile.name} has no selector, so it takes members only")
    if kind == "action_profile_group_id":
        group = message.action_profile_group_id
        if group not in pipeline.runtime.groups(table.profile.name):
            raise not_found(f"{what}: {table.profile.name} has no group {group}")
        return GroupRef(group)
    return _parse_one_shot(table, table.profile, message.action_profile_action_set)


def table_action_message(pipeline: Pipeline, action: TableAction) -> Any:
    if isinstance(action, MemberRef):
        return pb.TableAction(action_profile_member_id=action.member)
    if isinstance(action, GroupRef):
        return pb.TableAction(action_profile_group_id=action.group)
    if isinstance(action, OneShot):
        message = pb.TableAction()
        message.action_profile_action_set.SetInParent()
        for call, weight in action.actions:
            message.action_profile_action_set.action_profile_actions.add(
                action=action_message(pipeline, call), weight=weight
            )
        return message
    found = action_message(pipeline, action)
    return None if found is None else pb.TableAction(action=found)


def check_weight(profile: ProfileInfo, weight: int, what: str) -> int:
    """The weight that a runtime takes. Raises INVALID_ARGUMENT as sections 9.2.2 and 9.2.3 say."""
    if profile.weights_disallowed:
        if weight != 0:
            raise invalid(f"{what}: {profile.name} takes no weights")
        return 1
    if weight <= 0:
        raise invalid(f"{what}: a weight of {weight}; it must be above 0")
    if profile.sums_members and 0 < profile.max_member_weight < weight:
        raise invalid(f"{what}: a weight of {weight}; {profile.name} takes {profile.max_member_weight}")
    return weight


def refuse_watch(message: Any, what: str) -> None:
    """The emulator's ports do not go down, so none can be watched."""
    kind = message.WhichOneof("watch_kind")
    if kind is not None and getattr(message, kind):
        raise unimplemented(f"{what}: ports can't be watched; leave {kind} unset")


def _parse_one_shot(table: TableInfo, profile: ProfileInfo, message: Any) -> OneShot:
    what = f"table {table.name}: one-shot"
    for option in ("action_selection_mode", "size_semantics"):
        if getattr(message, option, 0) != 0:
            raise unimplemented(f"{what}: {option} is the action selector's; leave it unset")
    if "group_action" in message.DESCRIPTOR.fields_by_name and message.HasField("group_action"):
        raise unimplemented(f"{what}: actions of a group are not supported")
    actions = []
    for each in message.action_profile_actions:
        refuse_watch(each, what)
        weight = check_weight(profile, each.weight, what)
        actions.append((parse_action(table.actions, each.action, what), weight))
    size = len(actions) if profile.sums_members else sum(weight for _, weight in actions)
    if 0 < profile.max_group_size < size:
        raise invalid(f"{what}: a size of {size}; {profile.name} takes {profile.max_group_size}")
    return OneShot(tuple(actions))
