"""Counter tables: names that code and people share."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.protocol.counters import SWITCH_COUNTERS, WORKER_COUNTERS, Counter, indices, named


@pytest.mark.parametrize("table", [SWITCH_COUNTERS, WORKER_COUNTERS])
def test_names_are_unique_identifiers_with_a_meaning(table: tuple[Counter, ...]) -> None:
    names = [counter.name for counter in table]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)
    assert all(counter.meaning for counter in table)


@pytest.mark.parametrize("table", [SWITCH_COUNTERS, WORKER_COUNTERS])
def test_named_and_indices_fit_together(table: tuple[Counter, ...]) -> None:
    values = np.arange(100, 100 + len(table))
    told = named(table, values)
    assert {name: int(values[index]) for name, index in indices(table).items()} == told
    assert all(type(value) is int for value in told.values())


def test_a_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        named(SWITCH_COUNTERS, np.zeros(len(SWITCH_COUNTERS) - 1, np.int64))


def test_every_way_to_drop_a_packet_has_a_counter() -> None:
    drops = {counter.name for counter in SWITCH_COUNTERS if counter.name.startswith("dropped_")}
    assert drops == {
        "dropped_duplicate", "dropped_stale", "dropped_ahead", "dropped_truncated", "dropped_wrong_size",
        "dropped_bad_header", "dropped_wrong_slot", "dropped_wrong_version", "dropped_unknown_sender",
        "dropped_wrong_job", "dropped_port_full", "dropped_over_limit", "dropped_by_kernel",
    }  # fmt: skip
