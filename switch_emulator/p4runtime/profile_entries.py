"""`ActionProfileMember` and `ActionProfileGroup` (P4Runtime specification, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from switchml.p4runtime.codec import action_message, parse_action
from switchml.p4runtime.declarations import ActionInfo
from switchml.p4runtime.entries import GroupMember, GroupRef, MemberRef, TableAction
from switchml.p4runtime.refusals import invalid, not_found, precondition, too_many
from switchml.p4runtime.schema import ProfileInfo
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.actions import check_weight, refuse_watch
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.updates import check_presence


def write_member(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of an `ActionProfileMember` (section 9.2.1)."""
    profile = pipeline.schema.profiles.get(message.action_profile_id)
    member = message.member_id
    what = f"{profile.name}: member {member}"
    present = pipeline.runtime.members(profile.name)
    check_presence(update, member, member in present, what)
    if update == "DELETE":
        for group, members in pipeline.runtime.groups(profile.name).items() if profile.selector else ():
            if any(each.member == member for each in members):
                raise precondition(f"{what} is in group {group}; take it out first")
        _refuse_in_use(pipeline, profile, MemberRef(member), what)
        pipeline.runtime.delete_member(profile.name, member)
        return
    if not message.HasField("action"):
        raise invalid(f"{what}: the action is not set")
    action = parse_action(_actions(pipeline, profile), message.action, what)
    if update == "MODIFY":
        pipeline.runtime.modify_member(profile.name, member, action)
        return
    if 0 < profile.size <= len(present):
        raise too_many(f"{profile.name} has {profile.size} members, which is all it takes")
    pipeline.runtime.insert_member(profile.name, member, action)


def read_members(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A profile id of 0 reads all profiles, a member id of 0 all members."""
    for profile in pipeline.schema.profiles.select(message.action_profile_id):
        for member, action in pipeline.runtime.members(profile.name).items():
            if message.member_id in (0, member):
                found = pb.ActionProfileMember(
                    action_profile_id=profile.id,
                    member_id=member,
                    action=action_message(pipeline.schema, action),
                )
                yield pb.Entity(action_profile_member=found)


def write_group(pipeline: PipelineContext, update: str, message: Any) -> None:
    """Carry out an update of an `ActionProfileGroup` (section 9.2.2)."""
    profile = pipeline.schema.profiles.get(message.action_profile_id)
    group = message.group_id
    what = f"{profile.name}: group {group}"
    if not profile.selector:
        raise invalid(f"{profile.name} has no selector, so it has no groups")
    check_presence(update, group, group in pipeline.runtime.groups(profile.name), what)
    sizes = pipeline.memory.group_sizes
    if update == "DELETE":
        _refuse_in_use(pipeline, profile, GroupRef(group), what)
        pipeline.runtime.delete_group(profile.name, group)
        sizes.pop((profile.name, group), None)
        return
    members = _members(pipeline, profile, message, what)
    if update == "INSERT":
        if message.max_size < 0 or 0 < profile.max_group_size < message.max_size:
            raise invalid(f"{what}: a max_size of {message.max_size}; at most {profile.max_group_size}")
        if profile.max_group_size and message.max_size == 0:
            raise invalid(f"{what}: max_size is not set; at most {profile.max_group_size}")
        limit = message.max_size
    else:
        limit = sizes.get((profile.name, group), 0)
        if message.max_size != limit:
            raise invalid(f"{what}: a max_size of {message.max_size}; it was inserted with {limit}")
    size = len(members) if profile.sums_members else sum(member.weight for member in members)
    if 0 < limit < size:
        raise too_many(f"{what}: a size of {size}, above its max_size of {limit}")
    if update == "INSERT":
        pipeline.runtime.insert_group(profile.name, group, members, message.max_size)
        sizes[profile.name, group] = message.max_size
    else:
        pipeline.runtime.modify_group(profile.name, group, members)


def read_groups(pipeline: PipelineContext, message: Any) -> Iterator[Any]:
    """A profile id of 0 reads all profiles, a group id of 0 all groups."""
    for profile in pipeline.schema.profiles.select(message.action_profile_id):
        if not profile.selector:
            continue
        for group, members in pipeline.runtime.groups(profile.name).items():
            if message.group_id not in (0, group):
                continue
            found = pb.ActionProfileGroup(
                action_profile_id=profile.id,
                group_id=group,
                max_size=pipeline.memory.group_sizes.get((profile.name, group), 0),
            )
            for member in members:
                weight = 0 if profile.weights_disallowed else member.weight
                found.members.add(member_id=member.member, weight=weight)
            yield pb.Entity(action_profile_group=found)


def _members(pipeline: PipelineContext, profile: ProfileInfo, message: Any, what: str) -> list[GroupMember]:
    present = pipeline.runtime.members(profile.name)
    members: dict[int, GroupMember] = {}
    for each in message.members:
        if each.member_id in members:
            raise invalid(f"{what}: member {each.member_id} is there twice; use its weight")
        if each.member_id not in present:
            raise not_found(f"{what}: {profile.name} has no member {each.member_id}")
        refuse_watch(each, what)
        members[each.member_id] = GroupMember(each.member_id, check_weight(profile, each.weight, what))
    return list(members.values())


def _actions(pipeline: PipelineContext, profile: ProfileInfo) -> dict[int, tuple[ActionInfo, str]]:
    """The actions of the tables that the profile implements."""
    tables = pipeline.schema.tables.by_id
    return {
        key: value
        for table in profile.table_ids
        if table in tables
        for key, value in tables[table].actions.items()
    }


def _refuse_in_use(
    pipeline: PipelineContext, profile: ProfileInfo, reference: TableAction, what: str
) -> None:
    for table in pipeline.schema.tables.by_id.values():
        if table.profile is not profile:
            continue
        if any(entry.action == reference for entry in pipeline.runtime.entries(table.name)):
            raise precondition(f"{what} is the action of an entry of {table.name}; remove that first")
