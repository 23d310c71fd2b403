"""How commands end: exit codes, one document where JSON is asked for, the hint after Ctrl-C; and that all promised commands exist."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from foundry_ray import errors, studies
from foundry_ray.cli.main import app, main
from foundry_ray.cli.output import JsonOption, emit, on_interrupt, run_app, text
from foundry_ray.errors import FoundryError
from foundry_ray.runtime import jobs
from foundry_ray.types import RunRecord, RunStatus

RunApp = Callable[..., int]
PIPELINE = Path(__file__).parents[3] / "pipeline.yaml"
COMMANDS = [
    *("init", "schema", "plan", "run", "resume", "replay", "report", "trials", "analyze", "predict", "deploy", "submit", "doctor", "data:fetch"),
    *(
        "runs:list",
        "runs:show",
        "runs:delete",
        "runs:export",
        "runs:import",
        "study:show",
        "study:extend",
        "study:export",
        "models:list",
        "models:show",
        "models:pull",
    ),
    *("models:history", "models:promote", "models:rollback", "models:tag", "models:verify", "models:sign", "models:keygen"),
    *("endpoints:list", "endpoints:show", "endpoints:delete", "jobs:list", "jobs:status", "jobs:logs", "jobs:stop"),
    *("cluster:up", "cluster:down", "cluster:status", "store:serve", "store:stop", "store:status", "store:verify", "store:du", "store:gc"),
]
OPTIONS = {
    "plan": ["--scale", "--set", "--store", "--profile", "--price", "--json"],
    "run": ["--scale", "--set", "--store", "--address", "--fresh", "--until", "--keep", "--json"],
    "replay": ["--only", "--keep", "--store", "--address", "--json"],
    "report": ["-o", "--store", "--json"],
    "trials": ["--pareto", "--sort", "--json"],
    "analyze": ["--plot", "--json"],
    "study:extend": ["--trials", "--space", "--objective", "--set", "--store", "--address", "--json"],
    "study:export": ["--to", "--store", "--json"],
    "deploy": ["--policy", "--trial", "--port", "--replicas", "--address", "--store", "--json"],
    "submit": ["--address", "--scale", "--set", "--store", "--json"],
}


@pytest.fixture
def foundry(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunApp]:
    """Runs the command line in this process; the answer to SIGTERM is put back afterwards."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*args: str, app: typer.Typer = app) -> int:
        monkeypatch.setattr("sys.argv", ["foundry", *args])
        on_interrupt("")
        return run_app(app)

    yield run
    signal.signal(signal.SIGTERM, before)


def _failing_with(error: BaseException) -> typer.Typer:
    """A command line whose one command raises."""
    failing = typer.Typer(pretty_exceptions_enable=False)

    def command(json_output: JsonOption = False) -> None:
        raise error

    failing.command()(command)
    return failing


def _leaves(kind: type[FoundryError] = FoundryError) -> Iterator[type[FoundryError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from _leaves(below)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (2, "ConfigError UnknownKey OutOfRange SearchSpaceError DataError BadRecord FingerprintMismatch"),
        (2, "RecipeInfeasible ResourcesUnavailable ArtifactNotFound"),
        (3, "NoFeasibleTrial RolloutRejected"),
        (4, "ClusterUnreachable ClusterDenied StoreUnavailable StoreDenied DeployTimeout"),
        (5, "Conflict ArtifactCorrupt SignatureInvalid WorkerGroupFailed Diverged Preempted ParityFailed ReplicaUnhealthy"),
    ],
)
def test_each_error_ends_with_its_exit_code_and_two_lines(foundry: RunApp, capsys: pytest.CaptureFixture[str], code: int, names: str) -> None:
    for name in names.split():
        error = getattr(errors, name)("it got 3, wanted 4.", hint="do this.")
        assert foundry(app=_failing_with(error)) == code, name
        said = capsys.readouterr()
        assert said.err == "error: it got 3, wanted 4.\nhint:  do this.\n"
        assert said.out == ""


def test_every_error_has_one_of_the_documented_exit_codes() -> None:
    assert {kind.exit_code for kind in _leaves()} == {2, 3, 4, 5}


def test_an_error_is_one_document_on_stdout_where_json_is_asked_for(foundry: RunApp, capsys: pytest.CaptureFixture[str]) -> None:
    assert foundry("--json", app=_failing_with(errors.DataError("no rows.", hint="fetch."))) == 2
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": "DataError", "message": "no rows.", "hint": "fetch.", "exit_code": 2}
    assert said.err == "error: no rows.\nhint:  fetch.\n"


def test_json_of_one_command_does_not_leak_into_the_next(foundry: RunApp, capsys: pytest.CaptureFixture[str]) -> None:
    answering = typer.Typer()

    def command(json_output: JsonOption = False) -> None:
        emit({"answer": 42}, text("forty-two"))

    answering.command()(command)
    assert [foundry("--json", app=answering), foundry(app=answering)] == [0, 0]
    assert capsys.readouterr().out == '{\n  "answer": 42\n}\nforty-two\n'


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("jobs", "explode"), "No such command 'explode'"),
        (("plan",), "Missing argument 'PIPELINE'"),
        (("run", "pipeline.yaml", "--scael", "smoke"), "No such option: --scael"),
        (("deploy", "mnist@champion", "--port", "eight"), "Invalid value for '--port'"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_names_help(
    foundry: RunApp, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    assert foundry(*args) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "hint:  `foundry --help` lists the commands" in said


def test_ctrl_c_is_130_and_names_the_command_that_goes_on(foundry: RunApp, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = typer.Typer()

    def command() -> None:
        on_interrupt("foundry resume r1")
        raise KeyboardInterrupt

    interrupted.command()(command)
    assert foundry(app=interrupted) == 130
    assert capsys.readouterr().err == "Interrupted; the state is saved.\nhint:  `foundry resume r1` goes on from here.\n"


def test_sigterm_is_answered_as_ctrl_c(foundry: RunApp, capsys: pytest.CaptureFixture[str]) -> None:
    terminated = typer.Typer()

    def command() -> None:
        on_interrupt("foundry resume r1")
        signal.raise_signal(signal.SIGTERM)

    terminated.command()(command)
    assert foundry(app=terminated) == 130
    assert "`foundry resume r1` goes on from here" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(foundry: RunApp) -> None:
    with pytest.raises(ZeroDivisionError):
        foundry(app=_failing_with(ZeroDivisionError()))


def test_a_bug_ends_with_the_code_of_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(main.__globals__, "run_app", lambda app: 1 // 0)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 5
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "exit_code", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 5), ("STOPPED", None, 5), ("FAILED", -9, 5)]
)
def test_submit_ends_as_the_job_did(foundry: RunApp, monkeypatch: pytest.MonkeyPatch, status: str, exit_code: int | None, code: int) -> None:
    job = jobs.Job(job_id="j", status=status, exit_code=exit_code)
    monkeypatch.setattr(jobs, "submit", lambda *args, **options: job)
    monkeypatch.setattr(jobs, "logs", lambda *args, **options: iter(()))
    monkeypatch.setattr(jobs, "status", lambda *args, **options: job)
    assert foundry("submit", str(PIPELINE), "--address", "http://10.0.0.5:8265") == code


@pytest.mark.parametrize(("status", "code"), [(RunStatus.DONE, 0), (RunStatus.REJECTED, 3)])
def test_deploying_another_trial_ends_as_its_gates_say(
    foundry: RunApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: RunStatus, code: int
) -> None:
    asked: list[tuple[object, ...]] = []

    def deploy_another(run: str, policy: str, *, serve: dict[str, int], context: object, cluster: str | None) -> RunRecord:
        asked.append((run, policy, serve, cluster))
        return RunRecord(run_id="r-2", pipeline="p", config={}, versions={}, status=status)

    monkeypatch.setattr(studies, "deploy_another", deploy_another)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    options = ("--store", f"file://{tmp_path}/store", "--port", "8001")
    assert foundry("deploy", "latest", "--policy", "knee", *options) == code
    assert foundry("deploy", "r-1", "--trial", "7", "--address", "auto", *options) == code
    assert asked == [("latest", "knee", {"port": 8001}, None), ("r-1", "trial 7", {"port": 8001}, "auto")]


def test_a_policy_and_a_trial_exclude_each_other(foundry: RunApp, capsys: pytest.CaptureFixture[str]) -> None:
    assert foundry("deploy", "latest", "--policy", "knee", "--trial", "7") == 2
    assert "--policy 'knee' and --trial 7 both say which trial" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_promised_command_exists_and_has_help(foundry: RunApp, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert foundry(*command.split(":"), "--help") == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.strip().startswith(f"Usage: foundry {command.replace(':', ' ')} [OPTIONS]")
    assert rest.strip()[:1].isupper(), "it has no sentence that says what it does"
    assert all(option in rest for option in OPTIONS.get(command, ["--json"]))


def test_there_is_no_command_that_was_not_promised() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    found = [command.name for command in app.registered_commands]
    found += [f"{name}:{command.name}" for name, group in groups.items() if group for command in group.registered_commands]
    assert sorted(str(name) for name in found) == sorted(COMMANDS)
