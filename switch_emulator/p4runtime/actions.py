"""Actions: `Action` and `TableAction` messages and what a runtime takes (P4Runtime specification, section 9.1.2)."""

from __future__ import annotations

from typing import Any

from switchml.p4runtime.codec import action_message, parse_action
from switchml.p4runtime.entries import GroupRef, MemberRef, OneShot, TableAction
from switchml.p4runtime.refusals import invalid, not_found, unimplemented
from switchml.p4runtime.schema import ProfileInfo, TableInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext


def parse_table_action(pipeline: PipelineContext, table: TableInfo, message: Any) -> TableAction:
    """An entry's action. Raises INVALID_ARGUMENT when it is of another form than the table's implementation wants,
    NOT_FOUND for a member or group that is not there.
    """
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


def table_action_message(pipeline: PipelineContext, action: TableAction) -> Any:
    """The message of an entry's action; None for an action that is not in the P4Info."""
    if isinstance(action, MemberRef):
        return pb.TableAction(action_profile_member_id=action.member)
    if isinstance(action, GroupRef):
        return pb.TableAction(action_profile_group_id=action.group)
    if isinstance(action, OneShot):
        message = pb.TableAction()
        message.action_profile_action_set.SetInParent()
        for call, weight in action.actions:
            message.action_profile_action_set.action_profile_actions.add(
                action=action_message(pipeline.schema, call), weight=weight
            )
        return message
    found = action_message(pipeline.schema, action)
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
        if getattr(message, option):
            raise unimplemented(f"{what}: {option} is the action selector's; leave it unset")
    if message.HasField("group_action"):
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
