"""The errors of a batch: one a request, in what a client's metadata can hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.p4runtime.stubs import status_pb2
from switchml.switch_emulator.p4runtime.grpc_status import batch_details, code_number

outcomes = st.lists(
    st.one_of(
        st.none(),
        st.builds(
            RuntimeRequestError, st.sampled_from(["NOT_FOUND", "OUT_OF_RANGE"]), st.text("x", max_size=300)
        ),
    ),
    min_size=1,
    max_size=80,
)


@given(outcomes)
def test_one_error_a_request_in_order(results: list[RuntimeRequestError | None]) -> None:
    serialised = batch_details("some failed", results)
    assert len(serialised) < 6000
    status = status_pb2.Status.FromString(serialised)
    assert status.message == "some failed"
    assert len(status.details) == len(results)
    for packed, result in zip(status.details, results, strict=True):
        error = pb.Error()
        assert packed.Unpack(error)
        assert error.canonical_code == (code_number(result.code) if result else 0)
        assert error.message in ("", str(result))


def test_sentences_are_kept_while_they_fit() -> None:
    results = [RuntimeRequestError("NOT_FOUND", "x" * 200) for _ in range(40)]
    status = status_pb2.Status.FromString(batch_details("m", results))
    lengths = []
    for packed in status.details:
        error = pb.Error()
        packed.Unpack(error)
        lengths.append(len(error.message))
    assert lengths[0] == 200
    assert lengths[-1] == 0
    assert lengths == sorted(lengths, reverse=True)
