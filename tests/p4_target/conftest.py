"""Small programs in BMv2's JSON, made by hand."""

from __future__ import annotations

import pytest
from program_builder import ProgramBuilder


@pytest.fixture(scope="session")
def builder() -> type[ProgramBuilder]:
    return ProgramBuilder
