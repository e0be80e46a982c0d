"""The environment and the configuration that a verb uses: one precedence for all verbs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click
import pytest

from litellm_systemd.cli import cli, run_command
from litellm_systemd.commands.bedrock import iam_policy, models
from litellm_systemd.commands.config_check import check_config
from litellm_systemd.commands.configs import show_config
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import resolve_service
from litellm_systemd.env.dotenv import render_assignments
from litellm_systemd.errors import InputError, MissingError, UsageError
from litellm_systemd.host.layout import Layout

#: One region for each source of an environment, by which the source is recognized in a report.
OPTION, HERE, INSTALLED = "eu-west-1", "eu-west-2", "eu-west-3"
KEY = {"LITELLM_MASTER_KEY": "sk-0123456789abcdef0123456789abcdef"}
CONFIG = "model_list:\n  - model_name: {}\n    litellm_params: {{model: bedrock/amazon.titan-embed-text-v2:0}}\n"


class Scene:
    """A folder with a `.env`, another environment file, configurations, and an installation."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.layout = folder, Layout(root=folder / "host")
        self.layout.real(self.layout.configs).mkdir(parents=True)
        for name in ("active", "seen"):
            self.layout.real(self.layout.config(f"{name}.yml")).write_text(CONFIG.format(name))
        (folder / "given.yml").write_text(CONFIG.format("given"))

    def install(self, config: str | None = None) -> None:
        """Install an environment, with that CONFIG_FILE."""
        self._write(self.layout.real(self.layout.environment_file), INSTALLED, config)

    def activate(self) -> None:
        """Make a configuration the active one, as `config use` does."""
        self.layout.real(self.layout.config_link).symlink_to("configs/active.yml")

    def write(self, name: str, region: str, config: str | None = None) -> None:
        """Write an environment file into the current folder."""
        self._write(self.folder / name, region, config)

    def _write(self, path: Path, region: str, config: str | None) -> None:
        more = {} if config is None else {"CONFIG_FILE": config}
        path.write_text(render_assignments({**KEY, "AWS_REGION_NAME": region, **more}))

    def seen(self, **more: Any) -> Iterator[tuple[str, str, str]]:
        """For each verb: the name of the configuration that it uses, and the region of the environment."""
        request = Request(self.layout, cwd=self.folder, ask_instance=False, **more)
        found = resolve_service(request)
        yield "install", found.gateway.names[0], str(found.settings.region)
        report = models(request, date(2026, 1, 1), offline=True)
        yield "models", report.data["models"][0]["name"], report.data["models"][0]["region"]
        policy = iam_policy(request, offline=True)
        region = json.dumps(policy.data["policy"]).partition("arn:aws:bedrock:")[2].partition(":")[0]
        yield "iam-policy", Path(policy.title).stem, region
        yield "config show", show_config(request).data["models"][0], region
        yield "config check", Path(check_config(request).data["source"]).stem, region


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def agreed(scene: Scene, **more: Any) -> tuple[str, str]:
    """The result that all verbs share."""
    found = list(scene.seen(**more))
    assert len({each[1:] for each in found}) == 1, found
    return found[0][1:]


def test_the_option_comes_first(scene: Scene) -> None:
    """-c and -e precede .env, the installed environment and the active configuration."""
    scene.install("seen.yml")
    scene.activate()
    scene.write(".env", HERE, "seen.yml")
    scene.write("other.env", OPTION, "seen.yml")
    assert agreed(scene, env_file=scene.folder / "other.env", config="./given.yml") == ("given", OPTION)


def test_a_changed_config_file_comes_before_the_active_configuration(scene: Scene) -> None:
    """A CONFIG_FILE in .env that changed since the last install precedes `config use`."""
    scene.install("seen.yml")
    scene.activate()
    scene.write(".env", HERE, "./given.yml")
    assert agreed(scene) == ("given", HERE)


def test_an_unchanged_config_file_does_not_undo_config_use(scene: Scene) -> None:
    """The active configuration precedes a CONFIG_FILE in .env that has not changed since the last install."""
    scene.install("seen.yml")
    scene.activate()
    scene.write(".env", HERE, "seen.yml")
    assert agreed(scene) == ("active", HERE)


def test_without_a_dot_env_the_installed_environment_is_used(scene: Scene) -> None:
    """Without a .env here the installed environment is used, with the active configuration."""
    scene.install("seen.yml")
    scene.activate()
    assert agreed(scene) == ("active", INSTALLED)


def test_a_dot_env_that_leads_nowhere_is_refused(scene: Scene) -> None:
    """A .env that is a link to a missing file is reported: the installed environment is not used in its place."""
    scene.install()
    (scene.folder / ".env").unlink(missing_ok=True)
    (scene.folder / ".env").symlink_to("gone")
    with pytest.raises(MissingError, match=r"\.env: no such file"):
        list(scene.seen())


@pytest.mark.parametrize(
    ("before", "line", "said"),
    [
        ('A="1\n', 1, "the value of A has no closing quote and goes on to"),
        ("# C:\\\n", 1, "the comment ends with a backslash"),
        ("\ufeff", 1, "a byte order mark makes the name of LITELLM_MASTER_KEY invalid"),
        ("B=2\nexport ", 2, "'export' makes the name of LITELLM_MASTER_KEY invalid"),
        ("LITELLM_SALT_KEY=sk-salt\nB='2\n", 2, "LITELLM_MASTER_KEY, AWS_REGION_NAME in there are not set"),
        ("B=\0\n", 1, "line 1 contains a NUL byte"),
    ],
)
@pytest.mark.parametrize("installed_only", [False, True])
def test_installed_key_that_a_line_loses(
    scene: Scene, before: str, line: int, said: str, *, installed_only: bool
) -> None:
    """A key that a mistyped line of the installed file loses is not replaced by a generated one."""
    scene.install()
    path = scene.layout.real(scene.layout.environment_file)
    text = before + path.read_text()
    path.write_text(text)
    (scene.folder / ".env").write_text("AWS_REGION_NAME=eu-west-1\n")
    with pytest.raises(InputError) as caught:
        resolve_service(Request(scene.layout, cwd=scene.folder, ask_instance=False, installed_only=installed_only))
    assert said in caught.value.message
    assert f"{path}: line 1" in caught.value.message or f"{path}:{line}: " in caught.value.message
    assert f"sudoedit {path}" in caught.value.hint
    assert caught.value.code == 78
    assert path.read_text() == text


@pytest.mark.parametrize("harmless", ["junk\n", "LITELLM_MASTER_KEY=sk-other\n", "MY-KEY=1\n", "A = 'x'\r\n"])
def test_harmless_lines_of_the_installed_file(scene: Scene, harmless: str) -> None:
    """A line that loses no variable stops no install, and the installed key stays."""
    scene.install()
    path = scene.layout.real(scene.layout.environment_file)
    path.write_text(harmless + path.read_text())
    (scene.folder / ".env").write_text("AWS_REGION_NAME=eu-west-1\n")
    found = resolve_service(Request(scene.layout, cwd=scene.folder, ask_instance=False))
    assert found.settings.master_key == KEY["LITELLM_MASTER_KEY"]


def test_names_that_no_file_can_have(scene: Scene) -> None:
    """A path after -e or a CONFIG_FILE that is too long is an error with a remedy, not a defect."""
    scene.write(".env", HERE)
    with pytest.raises(InputError, match="File name too long"):
        list(scene.seen(env_file=Path("x" * 300)))
    with pytest.raises(UsageError, match="there is no configuration named"):
        list(scene.seen(config="x" * 300))


def test_installed_ignores_dot_env(scene: Scene) -> None:
    """--installed uses the installed environment although there is a .env here."""
    scene.install("seen.yml")
    scene.activate()
    scene.write(".env", HERE, "./given.yml")
    assert agreed(scene, installed_only=True) == ("active", INSTALLED)


def test_config_file_without_an_active_configuration(scene: Scene) -> None:
    """If no configuration is active, CONFIG_FILE selects it."""
    scene.install("seen.yml")
    assert agreed(scene) == ("seen", INSTALLED)


def test_the_default_comes_last(scene: Scene) -> None:
    """Without any of these the configuration is iam_role_config.yml, as an install writes it for the region."""
    scene.write(".env", HERE)
    request = Request(scene.layout, cwd=scene.folder, ask_instance=False)
    assert resolve_service(request).choice.name == "iam_role_config.yml"
    assert check_config(request).data["source"] == "iam_role_config.yml"
    assert models(request, date(2026, 1, 1), offline=True).data["source"] == "iam_role_config.yml"


def test_nothing_to_choose_from(scene: Scene) -> None:
    """Without a .env, an installation and -c every verb reports how to continue."""
    request = Request(scene.layout, cwd=scene.folder)
    for verb in (resolve_service, check_config, show_config, iam_policy):
        with pytest.raises(MissingError, match=r"there is no \.env here, and nothing is installed yet"):
            verb(request)


def test_a_named_configuration_needs_no_environment(scene: Scene) -> None:
    """With -c a configuration is shown and checked without an environment, and the report says what is omitted."""
    request = Request(scene.layout, config="./given.yml", cwd=scene.folder)
    for report in (check_config(request), show_config(request), models(request, date(2026, 1, 1), offline=True)):
        assert "what depends on variables was not checked" in report.checks[-1].detail


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


VERBS = dict(commands(cli))


def options_of(verb: str) -> dict[str | None, click.Option]:
    return {each.name: each for each in VERBS[verb].params if isinstance(each, click.Option)}


def test_the_same_options_in_all_verbs() -> None:
    """-c and -e have the same spelling and help in every verb that has them, where they mean the same."""
    # init writes the file that -e names, and client prefers the installed environment.
    other = {"init", "client"}
    for name, spelling in (("config", ["-c", "--config"]), ("env_file", ["-e", "--env-file"])):
        found = {verb: options_of(verb)[name] for verb in VERBS if name in options_of(verb) and verb not in other}
        assert {tuple(each.opts) for each in found.values()} == {tuple(spelling)}
        assert len({each.help for each in found.values()}) == 1
    taking = {verb for verb in VERBS if "config" in options_of(verb)}
    reading = {
        "install",
        "rehearse",
        "run",
        "config show",
        "config check",
        "models",
        "iam-policy",
        "verify",
        "client",
    }
    assert taking == reading | {"bundle", "releases build", "config use", "start", "restart", "reload"}
    assert {verb for verb in VERBS if "env_file" in options_of(verb)} == reading | {"init", "rotate-key"}
    assert all(options_of(verb)["env_file"].opts == ["-e", "--env-file"] for verb in other)


@pytest.mark.parametrize("verb", ["stop", "enable", "disable"])
def test_verbs_that_take_no_configuration(verb: str) -> None:
    """A verb that loads no configuration refuses -c."""
    assert run_command([verb, "-c", "demo.yml"]) == 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with a `.env`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("AWS_REGION_NAME=eu-west-1\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["models", "--bogus"], "litellmctl models --help"),
        (["models", "--offline", "-c", "nowhere"], "litellmctl models --help"),
        (["config", "use"], "litellmctl config use --help"),
        (["config", "check", "a.yml", "-c", "b.yml"], "litellmctl config check --help"),
        (["config", "bogus"], "litellmctl config --help"),
        (["verify", "-c", "demo"], "litellmctl verify --help"),
        (["upgrade", "1.0", "--litellm", "1.0"], "litellmctl upgrade --help"),
        (["--debug", "bogus"], "litellmctl --help"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_usage_errors_name_the_help_of_the_verb(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A usage error refers to the help of its own verb."""
    assert run_command(arguments) == 64
    assert capsys.readouterr().err.endswith(f"See: {named}\n")


def test_a_short_option_means_the_same_in_every_verb() -> None:
    """A short option has one long form in all verbs, and a verb with that long form has the short one too."""
    spellings = [each.opts for verb in VERBS for each in options_of(verb).values()]
    pairs = {(each[0], each[1]) for each in spellings if len(each) == 2}
    assert len({short for short, _ in pairs}) == len(pairs) > 5
    longs = {long: short for short, long in pairs}
    assert all(each == [longs[each[-1]], each[-1]] for each in spellings if each[-1] in longs)


def test_the_region_of_a_profile_counts_in_every_verb(scene: Scene) -> None:
    """With AWS_PROFILE and no variable for the region, each verb uses the region of that profile."""
    aws = scene.layout.real(scene.layout.state) / ".aws"
    aws.mkdir(parents=True)
    (aws / "config").write_text(f"[default]\nregion = us-east-1\n[profile work]\nregion = {HERE}\n")
    (scene.folder / ".env").write_text(render_assignments({**KEY, "AWS_PROFILE": "work"}))
    assert {(name, region) for _, name, region in scene.seen(config="./given.yml")} == {("given", HERE)}
    (scene.folder / ".env").write_text(render_assignments({**KEY, "AWS_PROFILE": "work", "AWS_REGION": OPTION}))
    assert {region for _, _, region in scene.seen(config="./given.yml")} == {OPTION}
