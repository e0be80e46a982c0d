"""The command line of litellmctl: its output and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from litellm_systemd import cli
from litellm_systemd.cli import run_command
from litellm_systemd.commands import rehearse, status
from litellm_systemd.errors import CommandError, InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Check, Outcome, Report


def test_help_lists_every_verb_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists each verb once, below its task, with a short summary that is not cut off."""
    assert run_command(["--help"]) == 0
    lines = capsys.readouterr().out.split("Install:\n")[1].splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    assert sorted(name for name, _ in rows) == sorted(cli.cli.commands)
    assert [row for row in rows if not row[1].endswith(".") or row[1].endswith("...") or len(row[1]) >= 60] == []


def test_help_imports_nothing_slow() -> None:
    """--help imports neither LiteLLM, boto3, requests, Jinja2 nor rich, so that it is fast."""
    heavy = {"litellm", "boto3", "botocore", "requests", "jinja2", "rich"}
    code = (
        "import sys; from litellm_systemd.cli import run_command; run_command(['--help']);"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["install", "--frob"],
        ["verify", "--timeout", "soon"],
        ["config", "use"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid command line exits with 64 and the reason on standard error."""
    assert run_command(arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("litellmctl: ")


@pytest.mark.parametrize("arguments", [[], ["config"], ["releases"]], ids=" ".join)
def test_a_missing_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line without a verb ends in exit 64, with the help that lists the verbs and nothing else."""
    assert run_command(arguments) == 64
    out, err = capsys.readouterr()
    assert run_command([*arguments, "--help"]) == 0
    assert (out, err) == ("", capsys.readouterr().out)


def test_a_missing_choice_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The error for a missing argument lists its values on the line of the error."""
    assert run_command(["completion"]) == 64
    line, hint = capsys.readouterr().err.splitlines()
    assert line.endswith("bash, zsh, fish")
    assert hint == "  See: litellmctl completion --help"


def test_misuse_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json an error is JSON on standard output as well."""
    assert run_command(["status", "--json", "--frob"]) == 64
    assert json.loads(capsys.readouterr().out)["exit_code"] == 64


def failing(error: Exception) -> Any:
    def verb(*_args: object, **_kwargs: object) -> Report:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("it is bad", "make it good"), 78, "litellmctl: it is bad\n  make it good\n"),
        (CommandError(("prog", "-x"), 3, "one\ntwo\n"), 71, "litellmctl: prog -x failed with exit code 3: two\n"),
        (click.Abort(), 130, "litellmctl: interrupted\n"),
        (RuntimeError("boom"), 70, "litellmctl: this is a defect of litellmctl: RuntimeError: boom\n"),
    ],
    ids=["a refusal", "a program that failed", "interrupted", "a defect"],
)
def test_errors(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error is reported in one sentence with its remedy and its own exit code, without a traceback."""
    monkeypatch.setattr(status, "status", failing(error))
    assert run_command(["status"]) == code
    err = capsys.readouterr().err
    assert err.lstrip().startswith(said)
    assert "Traceback" not in err


def test_damaged_beyond_verification(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of a cut module that the verification needs as well is damage, whatever its type, and no defect."""
    monkeypatch.setattr(status, "status", failing(NameError("name 'x' is not defined")))
    monkeypatch.setitem(sys.modules, "litellm_systemd.releases.integrity", None)
    assert run_command(["status"]) == 69
    assert "is damaged: a module cannot be imported (NameError: " in capsys.readouterr().err


def test_incomplete_python(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing module of Python itself is no damage of the release and no defect: the message names the Python."""
    monkeypatch.setattr(status, "status", failing(ModuleNotFoundError("No module named '_ssl'", name="_ssl")))
    assert run_command(["status"]) == 69
    err = capsys.readouterr().err
    assert f"{Path(sys.executable).resolve()}, which the release uses, is incomplete: ModuleNotFoundError" in err
    assert "Reinstall its packages" in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug an error has its Python traceback."""
    monkeypatch.setattr(status, "status", failing(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"):
        run_command(["--debug", "status"])


REPORT = Report(
    "all [bold] is well",
    (
        Check("one", Outcome.OK, "fine [red]", seconds=0.0123),
        Check("two", Outcome.FAILED, "bad", "repair it"),
        Check("three", Outcome.SKIPPED),
    ),
    facts=(("name", "[value]"),),
    notes=("remember [this]",),
    data={"key": "value"},
)


def test_report_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A report shows facts, checks with latency and remedy, notes, and the verdict last; brackets are printed as
    text.
    """
    monkeypatch.setattr(status, "status", lambda _layout: REPORT)
    assert run_command(["status"]) == 1
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["name", "[value]"]
    assert lines[1].split() == ["ok", "one", "12", "ms", "fine", "[red]"]
    assert lines[2].split() == ["FAILED", "two", "bad"]
    assert lines[3].split() == ["repair", "it"]
    assert lines[-2:] == ["  remember [this]", "all [bold] is well"]


def test_report_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints only the report."""
    monkeypatch.setattr(status, "status", lambda _layout: REPORT)
    assert run_command(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == REPORT.as_dict()


@pytest.mark.parametrize("options", [(), ("--offline",)])
def test_a_rehearsal_offline_does_not_query_the_instance(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --offline a rehearsal in a clone does not query the instance metadata for a region either."""
    seen: list[rehearse.RehearseOptions] = []

    def record(options: rehearse.RehearseOptions, _say: object) -> Report:
        seen.append(options)
        return REPORT

    monkeypatch.setattr(rehearse, "rehearse", record)
    assert run_command(["rehearse", *options]) == 1
    assert [each.request.ask_instance for each in seen] == [not options]
    assert REPORT.title in capsys.readouterr().out


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`init` writes .env into the current folder and names the next step."""
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "--region", "eu-central-1"]) == 0
    assert "AWS_REGION_NAME=eu-central-1" in (tmp_path / ".env").read_text(encoding="utf-8").splitlines()
    assert "sudo litellmctl install" in capsys.readouterr().out
    assert run_command(["init"]) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The completion script of a shell calls litellmctl for its proposals."""
    assert run_command(["completion", shell]) == 0
    assert "_LITELLMCTL_COMPLETE" in capsys.readouterr().out


def test_completion_proposes_verbs() -> None:
    """`litellmctl rel` is completed to the verbs that begin with those letters."""
    env = {**os.environ, "_LITELLMCTL_COMPLETE": "bash_complete", "COMP_WORDS": "litellmctl rel", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['litellmctl']; from litellm_systemd.cli import main; main()"
    done = subprocess.run(
        (sys.executable, "-c", code), env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert {line.split(",")[-1] for line in done.stdout.split()} == {"reload", "releases"}


def test_closed_pipe_is_no_failure() -> None:
    """`litellmctl --help | head -1` ends without an error."""
    code = "from litellm_systemd.cli import main; import sys; sys.argv = ['litellmctl', '--help']; main()"
    done = subprocess.run(
        ("sh", "-c", f'"{sys.executable}" -c "{code}" | head -1'),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("Usage")


def test_verbs_without_an_install(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an installation, the shipped configurations can be listed and shown."""
    assert run_command(["config", "show", "demo"]) == 0
    out = capsys.readouterr().out
    assert "claude-sonnet-5-5" in out
    assert run_command(["config", "show", "nonsense"]) == 64
    assert "Available: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["config check", "init", "bundle", "upgrade", "status", "doctor"])
def test_a_deleted_working_folder(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a deleted folder, each verb reports that before it does anything."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert run_command(verb.split()) == 66
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", "litellmctl: the current folder was deleted")


def test_module_has_a_main() -> None:
    """`python -m litellm_systemd` is litellmctl."""
    done = subprocess.run(
        (sys.executable, "-m", "litellm_systemd", "--version"), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("litellmctl ")
    assert cli.cli.name == "cli"


def test_a_reader_that_closes_the_pipe() -> None:
    """If the reader closes the pipe, as `| head` does, the exit code is still that of the verb."""
    reading, writing = os.pipe()
    os.close(reading)
    argv = (sys.executable, "-I", "-m", "litellm_systemd", "config", "list")
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["diff"], 66, "nothing is installed here"),
        (["rollback"], 66, "nothing is installed here"),
        (["upgrade"], 66, "nothing is installed here"),
        (["config", "use", "demo"], 66, "nothing is installed here"),
        (["uninstall"], 69, "systemd is not running on this machine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_nothing_is_installed(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an install or systemd, a verb for the installed service reports that, and no error of systemctl."""
    monkeypatch.setattr("litellm_systemd.host.observe.os.geteuid", lambda: 0)
    monkeypatch.setattr("litellm_systemd.host.observe.is_booted", lambda: False)
    monkeypatch.setattr(Layout, "is_host", True)
    layout = Layout(root=tmp_path)
    for module in ("configuration", "installation", "service"):
        monkeypatch.setattr(f"litellm_systemd.cli.{module}.layout_of", lambda *_arguments: layout)
    assert run_command([*arguments, *(["--yes"] if arguments == ["uninstall"] else [])]) == code
    assert capsys.readouterr().err.splitlines()[0] == f"litellmctl: {message}"


@pytest.mark.parametrize(("hint", "line"), [("make it good", "it is bad. make it good"), ("", "it is bad")])
def test_error_in_one_line(hint: str, line: str) -> None:
    """An error in a line of the journal has its remedy after it; without a remedy nothing follows."""
    assert InputError("it is bad", hint).render() == line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["models", "-x"], ["-e FILE", "-c CONFIG", "--offline", "See: litellmctl models --help"]),
        (
            ["config", "use", "a.yml", "-e", ".env"],
            ["uses the installed environment", "install -e FILE", "-c CONFIG"],
        ),
        (["-e", ".env", "models"], ["Write it after the verb: litellmctl models -e"]),
        (["--frob"], ["See: litellmctl --help"]),
    ],
    ids=lambda each: " ".join(each),
)
def test_an_unknown_option_shows_those_of_the_verb(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error for an option that a verb does not have lists the options that it has."""
    assert run_command(arguments) == 64
    error = capsys.readouterr().err
    assert "No such option" in error
    assert [part for part in parts if part not in error] == []
