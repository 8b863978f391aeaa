"""Every command that the documentation shows is one there is, and is run by a test or marked as needing more.

A mark is a comment above the block, `<!-- needs: root -->`, which the site shows as a line. What needs nothing is run here, in a
folder with what the pages speak of, or by another test, in a smaller form where it would take long.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from switchml.cli import app, load
from switchml.control.tls import TlsFiles
from switchml.switch_emulator import Emulator

ROOT = Path(__file__).parents[2]
PAGES = (
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "p4/README.md", "scripts/cluster/README.md")),
    ROOT / "switchml" / "new_program" / "template" / "README.md",
)
PROGRAMS = {
    *(
        "switchml",
        "make",
        "mpiexec",
        "mpirun",
        "openssl",
        "p4c-bm2-ss",
        "pip",
        "podman",
        "pytest",
        "python",
        "simple_switch_grpc",
    ),
    *("srun", "cp", "echo", "export", "git", "kill", "sed", "torchrun", "tshark", "until"),
}
"""What a line has to begin with to be a command and no output, formula or picture."""

MARKS = {
    "root",
    "two hosts",
    "hosts of your own",
    "a running switch",
    "a package index that has it",
    "a package index that has them",
    "a container engine and a network",
    "a GPU",
    "minutes",
    "gigabytes of engines",
}
SAY_IT_THEMSELVES = r"sudo |.* -i 1@veth|p4c-bm2-ss |simple_switch_grpc |.* --target bmv2|\S*pip install "
"""Commands that name what they need: root, interfaces, p4c, BMv2, a package index."""

HERE = {
    "switchml check --paper --chunks 3 --script wrong_sum.stf",
    "switchml stf p4/build/switchml_64.json tests/conformance/scripts/stale_packet.stf",
    "switchml stf PROGRAM.json SCRIPT.stf --trace --capture all.pcap",
    "switchml stf --suite DIR",
}
TLS = r"openssl |switchml switch .* --tls-cert switch.pem|export SWITCHML_(SWITCH|TLS)"
"""What is run by this file."""

ELSEWHERE = {
    r"make test$": "house/test_documented_commands.py::test_continuous_integration_tests_as_the_readme_says",
    r"\S*pytest tests/|SWITCHML_BMV2=\S+ pytest": "conformance/test_scripts.py::test_script",
    r"make demo": "examples/test_digits.py::test_switchml_and_gloo_reach_the_same_accuracy",
    r"make dist": "house/test_release.py::test_two_builds_are_the_same_bytes_whoever_builds",
    r"examples/estimators.py": "examples/test_estimators.py::test_dask_ml_ends_the_same",
    r"switchml check": "check/test_search.py::test_the_command_tells_what_it_searched",
    r"switchml decode": "packets/test_packets_page.py::test_the_commands_of_decode",
    r"tshark": "packets/test_dissector.py::test_tshark_says_what_decode_says",
    r"switchml run .*--capture": "packets/test_captures_end_to_end.py::test_switch_and_workers_have_the_same_packets",
    r"switchml run .*--loss": "launch/test_run.py::test_faults_are_made_and_named",
    r"switchml run .*(--backend-for)|SWITCHML_BACKEND_FOR=": (
        "unedited/test_unedited_scripts.py::test_scripts_that_name_nccl_and_gloo_train_over_the_switch_on_the_cpu"
    ),
    r"switchml run .*--data-parallel|PYTHONHASHSEED=0 SWITCHML_DATA_PARALLEL=": (
        "unedited/test_unedited_scripts.py::test_scripts_of_one_process_train_on_three_workers"
    ),
    r"(python|switchml run -n 4 --) fit.py": (
        "learn/test_learn_end_to_end.py::test_a_script_with_other_import_lines_fits_over_three_ranks"
    ),
    r"switchml run .*characters.py": "examples/test_characters.py::test_narrow_wires_learn_as_whole_ones_do",
    r"SWITCHML_WIRE=int8 switchml run": "examples/test_characters.py::test_narrow_wires_learn_as_whole_ones_do",
    r"switchml run .*(train|digits).py": "launch/test_run.py::test_the_script_runs_over_the_switch_and_the_account_says_so",
    r"switchml run .*switchml examples": "launch/test_run.py::test_the_script_runs_over_the_switch_and_the_account_says_so",
    r"torchrun .* --hook": "examples/test_digits.py::test_with_the_hook_gloo_keeps_the_rest",
    r"torchrun --nproc-per-node 4": "cluster/test_launchers.py::test_torchrun_on_two_nodes_starts_a_switch",
    r"SWITCHML_SWITCH=\S+ (torchrun|NODES=)": (
        "cluster/test_launchers.py::test_torchrun_on_two_nodes_over_a_running_switch"
    ),
    r"mpiexec .* scripts/cluster/mpi_rank.py": "cluster/test_launchers.py::test_mpi_gives_the_rendezvous",
    r"switchml switch .*--tenants": "control/test_tenants.py::test_two_tenants_on_a_switch",
    r"switchml switch --host": "cluster/test_launchers.py::test_torchrun_on_two_nodes_over_a_running_switch",
    r"switchml switch .*--use-files": "p4_emulator/test_switch_on_files.py::test_the_command_ends_with_its_files",
    r"switchml switch --pipeline native": "p4runtime_server/test_service_end_to_end.py::test_a_write_goes_on_after_errors",
    r"switchml switch --pipeline": "controller/test_controller_training.py::test_both_pipelines_give_the_same_parameters",
    r"switchml controller": "controller/test_controller_command.py::test_an_all_reduce_through_it",
    r"shell/bin/python": "p4runtime_server/test_shell_end_to_end.py::test_a_job_set_up_by_hand_reduces",
    r"switchml doctor": "torch_backend/test_doctor.py::test_a_healthy_machine_and_a_secret_that_stays_one",
    r"switchml status": "house/test_cli.py::test_status_asks_a_running_switch",
    r"switchml top --web|switchml replay .* --web": (
        "telemetry/test_web_server.py::test_the_page_is_there_for_who_knows_the_token"
    ),
    r"switchml top": "telemetry/test_top_end_to_end.py::test_one_picture_as_json_and_as_text",
    r"switchml (record|replay)": "telemetry/test_recording.py::test_record_then_replay",
    r"switchml metrics": "telemetry/test_metrics_server.py::test_prometheus_is_answered_until_it_ends",
    r"switchml experiment": (
        "experiment/test_experiment_command.py::test_a_figure_from_nothing_and_then_with_one_more_value"
    ),
    r"switchml bench script": "bench/test_workloads.py::test_each_runs_small",
    r"switchml bench allreduce .*--baseline gloo --rounds 3": "bench/test_cli.py::test_table_json_and_picture",
    r"switchml bench ddp": "bench/test_training_step.py::test_steps_over_both_backends_and_the_bare_allreduce",
    r"switchml bench quantize": "bench/test_cli.py::test_quantize_reports_speed_and_ratio",
    r"python scripts/failures/failure_table.py": (
        "torch_backend/test_failure_table.py::test_the_others_know_at_once_of_a_rank_that_ends"
    ),
    r"python tests/conformance/conformance_scripts.py": (
        "conformance/test_scripts.py::test_the_scripts_are_what_the_generator_makes"
    ),
    r"switchml stf program.json (program|script).stf": "new_program/test_new_program.py::test_it_runs_as_it_is",
}
"""How a command begins -> the test that runs it or, where it would take long, one like it that is smaller."""
TUTORIAL = "docs/tutorial-p4.md"  # all of whose commands house/test_p4_tutorial.py plays


class Command(NamedTuple):
    """One that a page shows."""

    page: str
    text: str
    needs: str

    @property
    def bare(self) -> str:
        """Without sudo and variables in front."""
        return re.sub(r"^(sudo |[A-Z_0-9]+=\S+ )*", "", self.text)

    @property
    def program(self) -> str:
        """The name of what is called."""
        return self.bare.partition(" ")[0].rpartition("/")[2]

    @property
    def words(self) -> list[str]:
        """What is called with its arguments, without what stands behind it: redirections, pipes, an end of line's `&`."""
        given = re.sub(r"\$\(switchml examples (\w+)\)", r"\1.py", self.bare)
        return shlex.split(re.split(r" [|>&]| 2>", re.sub(r"[][]", "", given))[0])


def shown(page: Path) -> Iterator[Command]:
    """All commands of a page, in order."""
    fence: str | None = None
    needs = ""
    text = re.sub(r" *\\\n\s*", " ", page.read_text())
    for line in text.splitlines():
        marked = re.fullmatch(r"<!-- needs: (.+) -->", line)
        if marked:
            needs = marked[1]
        elif line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif line and fence is None and not line.startswith("    "):
            needs = ""
        found = (
            line[2:]
            if fence == "console" and line.startswith("$ ")
            else line[4:]
            if fence is None and line.startswith("    ")
            else ""
        )
        found = re.sub(r"\s{2,}#.*| # .*", "", found).strip()
        command = Command(str(page.relative_to(ROOT)), found, needs)
        if command.program in PROGRAMS or command.program.endswith(".py"):
            yield command


COMMANDS = [command for page in PAGES for command in shown(page)]


def elsewhere(command: Command) -> str:
    """The test that runs a command, or ""."""
    if command.page == TUTORIAL:
        return "house/test_p4_tutorial.py::test_what_is_shown_comes"
    return next((test for begins, test in ELSEWHERE.items() if re.match(begins, command.text)), "")


def is_marked(command: Command) -> bool:
    return bool(command.needs or re.match(SAY_IT_THEMSELVES, command.text))


def is_here(command: Command) -> bool:
    return command.text in HERE or (command.page == "docs/tls.md" and bool(re.match(TLS, command.text)))


def test_every_command_is_run_or_says_what_it_needs() -> None:
    """A new one gets a mark above its block, or a place in `HERE` or `ELSEWHERE`."""
    assert len(COMMANDS) > 150
    assert {command.needs for command in COMMANDS} - {""} <= MARKS
    left = [each for each in COMMANDS if not (is_marked(each) or is_here(each) or elsewhere(each))]
    assert [f"{each.page}: {each.text}" for each in left] == []
    assert {each.text for each in COMMANDS} >= HERE


def test_continuous_integration_tests_as_the_readme_says() -> None:
    assert "make test" in {each.text for each in COMMANDS if each.page == "README.md"}
    assert "\nmake test WHEEL=1" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("test", sorted({*ELSEWHERE.values()}))
def test_what_is_said_to_run_elsewhere_is_a_test_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}" in (ROOT / "tests" / file).read_text()


def follow(command: Any, words: list[str]) -> None:
    """Parse the words as the command does, and as the commands inside it do."""
    context = command.make_context(words[0], words[1:])  # raises where an option or an argument is none
    inner = getattr(command, "commands", {})
    if inner:
        name, *rest = [*context._protected_args, *context.args]
        follow(inner[name], [name, *rest])


@pytest.mark.parametrize("text", sorted({each.text for each in COMMANDS if each.program == "switchml"}))
def test_our_commands_have_the_options_that_are_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("p4", "tests", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    _, name, *words = Command("", text, "").words
    if name != "--version":
        follow(load(name), [name, *words])


def call(text: str) -> str:
    done = CliRunner().invoke(app, shlex.split(text)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_those_that_are_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p4", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "DIR").mkdir()
    for program, script in (("PROGRAM", "SCRIPT"), ("DIR/a", "DIR/a")):
        shutil.copy(ROOT / "p4" / "build" / "switchml_64.json", f"{program}.json")
        shutil.copy(ROOT / "tests" / "conformance" / "scripts" / "basic_reduction.stf", f"{script}.stf")
    told = {text: call(text) if "--paper" not in text else "" for text in HERE}
    assert "passed" in told["switchml stf --suite DIR"]
    assert Path("all.pcap").stat().st_size > 1000
    published = CliRunner().invoke(app, shlex.split("check --paper --chunks 3 --script wrong_sum.stf"))
    assert "violation" in published.output
    assert "passed" in call("switchml stf p4/build/switchml_64.json wrong_sum.stf")


def test_the_certificates_of_the_page_on_tls_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    commands = [each for each in COMMANDS if each.page == "docs/tls.md"]
    made = [each.text.replace("10.0.0.9", "127.0.0.1") for each in commands if each.program == "openssl"]
    assert len(made) == 5
    for text in made:
        subprocess.run(shlex.split(text), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    monkeypatch.chdir(tmp_path)
    (serves,) = (each.words for each in commands if each.text.startswith("switchml switch"))
    files = {name: Path(serves[serves.index(f"--tls-{name}") + 1]) for name in ("cert", "key", "ca")}
    for each in commands:
        if each.program == "export":
            for setting in each.words[1:]:
                monkeypatch.setenv(*setting.split("=", 1))
    with Emulator(token="SECRET", tls=TlsFiles(files["cert"], files["key"], files["ca"]).server()) as switch:
        monkeypatch.setenv("SWITCHML_SWITCH", switch.control_address)
        assert json.loads(call("switchml status --json"))["jobs"] == []
        monkeypatch.delenv("SWITCHML_TLS_CERT")
        monkeypatch.delenv("SWITCHML_TLS_KEY")
        refused = CliRunner().invoke(app, ["status", "--timeout", "2"])
        assert refused.exit_code != 0, "a switch with an authority asks for a certificate"
