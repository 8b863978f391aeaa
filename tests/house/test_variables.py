"""Environment variables: one table, and what is none of them is named."""

from __future__ import annotations

import logging
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

import switchml
from switchml import variables
from switchml.errors import UsageError
from switchml.protocol.format_table import render
from switchml.variables import TABLES, VARIABLES, misspelt, quiet, take_configuration

ROOT = Path(__file__).parents[2]
PACKAGE = Path(switchml.__file__).parent


def test_the_docs_show_the_table() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert render(page, TABLES) == page, "run: make docs"


def test_what_the_code_reads_is_in_the_table() -> None:
    named = {
        name
        for file in PACKAGE.rglob("*.py")
        if file.name != "variables.py"
        for name in re.findall(r"[\"'](SWITCHML_[A-Z0-9_]+)[\"']", file.read_text())
    }
    assert named - variables._OTHERS <= {each.name for each in VARIABLES}
    assert "SWITCHML_WINDOW" in named


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SWITCHML_WINDWO", "is SWITCHML_WINDOW meant?"),
        ("SWITCHML_TLS_CERTIFICATE", "is SWITCHML_TLS_CERT meant?"),
        ("SWITCHML_ADDR_OF_ALL", "there are SWITCHML_SWITCH, SWITCHML_TOKEN"),
    ],
)
def test_the_nearest_is_named(name: str, meant: str) -> None:
    (sentence,) = misspelt({name: "1", "SWITCHML_WINDOW": "64", "SWITCHML_TEST_RUN": "x", "HOME": "/"})
    assert name in sentence
    assert meant in sentence


def test_it_is_said_once_a_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(variables, "_told", False)
    monkeypatch.setenv("SWITCHML_SWTICH", "h:1")
    monkeypatch.delenv("SWITCHML_RUN", raising=False)
    for _ in range(3):
        variables.heed_environment()
    assert capfd.readouterr().err == (
        "switchml: the environment variable SWITCHML_SWTICH means nothing to switchml: is SWITCHML_SWITCH meant?\n"
    )


def test_a_command_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHML_TOKNE", "secret")
    done = subprocess.run(
        [sys.executable, "-m", "switchml.cli", "version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "SWITCHML_TOKEN meant?" in done.stderr
    assert "secret" not in done.stderr


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a process that has read no file yet: where it looks for one."""
    monkeypatch.setattr(variables, "_configured", False)
    monkeypatch.setattr(os, "environ", {"XDG_CONFIG_HOME": str(tmp_path), "SWITCHML_WIRE": "int8"})
    return tmp_path / "switchml.toml"


def ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(variables.PREFIX)}


def test_a_file_sets_what_is_not_set(configured: Path) -> None:
    configured.write_text('window = 64\nwire = "int16"\nquiet = true\nlease = 2.5\n')
    take_configuration()
    set_there = {"SWITCHML_WINDOW": "64", "SWITCHML_QUIET": "1", "SWITCHML_LEASE": "2.5"}
    assert ours() == {"SWITCHML_WIRE": "int8", **set_there}
    configured.write_text("payload = 128")
    take_configuration()
    assert "SWITCHML_PAYLOAD" not in os.environ, "it is read once a process"


def test_without_a_file_nothing_is_set(configured: Path) -> None:
    take_configuration()
    assert ours() == {"SWITCHML_WIRE": "int8"}


@pytest.mark.parametrize(
    ("mode", "text", "told"),
    [(0o640, "token = 's3cret'", True), (0o600, "token = 's3cret'", False), (0o644, "window = 64", False)],
)
def test_a_token_that_others_can_read_is_told(
    configured: Path, capfd: pytest.CaptureFixture[str], mode: int, text: str, told: bool
) -> None:
    configured.write_text(text)
    configured.chmod(mode)
    take_configuration()
    said = capfd.readouterr().err
    assert said == (f"switchml: others can read the token in {configured}: chmod 600\n" if told else "")


@pytest.mark.parametrize(
    "environment",
    [{"XDG_CONFIG_HOME": "/" + 300 * "x"}, {}],
    ids=["a folder that cannot be looked at", "no home"],
)
def test_where_no_file_can_be_nothing_is_set(
    configured: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "environ", environment)
    take_configuration()
    assert ours() == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("windwo = 64", "windwo is no setting: is window meant?"),
        ("config = 'a'", "config is no setting"),
        ("window = [64]", "a text, a number, true or false"),
        ("window =", "switchml.toml: "),
    ],
)
def test_a_file_that_cannot_be_meant(configured: Path, text: str, says: str) -> None:
    configured.write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        take_configuration()


def test_the_file_that_is_named_has_to_be_there(configured: Path) -> None:
    os.environ["SWITCHML_CONFIG"] = str(configured)
    with pytest.raises(UsageError, match="No such file"):
        take_configuration()


def test_commands_and_torch_read_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("window = 32")
    environment = {**os.environ, "SWITCHML_CONFIG": str(tmp_path / "mine.toml")}
    environment.pop("SWITCHML_WINDOW", None)
    code = "from switchml.torch_backend.options import Options; print(Options().window)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout == "32\n"
    (tmp_path / "mine.toml").write_text("windwo = 32")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "switchml.cli", "version"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, "is window meant?" in done.stderr) == (1, True)


@pytest.mark.parametrize(("value", "silent"), [("", False), ("0", False), ("1", True)])
def test_quiet(value: str, silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHML_QUIET", value)
    assert quiet() == silent


def test_words_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(misspelt({"SWITCHML_LOG": "collectives, Info ,"})) == []
    (sentence,) = misspelt({"SWITCHML_LOG": "colectives,debug"})
    assert sentence.startswith("SWITCHML_LOG=colectives: there are collectives, summary, all-ranks, debug")
    monkeypatch.setenv("SWITCHML_LOG", "Summary, colectives")
    assert variables.log_words() == {"summary"}


@pytest.mark.parametrize(("word", "level"), [("debug", logging.DEBUG), ("collectives,error", logging.ERROR)])
def test_the_level_of_the_log(
    word: str, level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = logging.getLogger("switchml")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(ours, name, [] if name == "handlers" else getattr(ours, name))
    monkeypatch.setattr(variables, "_told", False)
    monkeypatch.setenv("SWITCHML_LOG", word)
    variables.heed_environment()
    ours.getChild("control").log(level, "a job has begun")
    ours.getChild("control").log(level - 1, "nobody reads this")
    assert ours.level == level
    said = capsys.readouterr().err
    assert said == f"switchml: {logging.getLevelName(level)}: switchml.control: a job has begun\n"
    ours._cache.clear()  # type: ignore[attr-defined]  # levels that are kept by child loggers
