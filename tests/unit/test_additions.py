"""Additions to a release: groups of packages, and packages of the user's own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import pytest

from litellm_systemd.commands.additions import choose_release
from litellm_systemd.errors import CommandError, InputError, InstallerError, MissingError, UsageError
from litellm_systemd.gateway.config import GatewayConfig, parse_config
from litellm_systemd.gateway.packages import group_names, locked_names, missing_packages
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK
from litellm_systemd.releases import additions as module
from litellm_systemd.releases.additions import Additions, Kept, choose_additions, extend, require_additions
from litellm_systemd.releases.needs import package_findings, require_packages
from litellm_systemd.releases.requirements_lock import LOCK, Pin, additions_of, parse_lock, split_lock
from litellm_systemd.releases.source import DISTRIBUTION, find_source
from litellm_systemd.releases.venvs import install_lock, make_venv
from litellm_systemd.resources import read_lock
from tests.wheels import own_wheel

MODEL = "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: hi}}]\n"


def gateway(text: str) -> GatewayConfig:
    return parse_config(MODEL + text, "config.yaml")


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv and pip have no package index."""
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


# --- what a configuration needs ---


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ('litellm_settings: {callbacks: ["sentry"]}', {("litellm_settings", "callbacks", 0): "sentry"}),
        (
            'litellm_settings: {success_callback: ["langfuse"], failure_callback: langfuse}',
            {("litellm_settings", "success_callback", 0): "langfuse"},
        ),
        ("litellm_settings: {input_callback: [sentry]}", {("litellm_settings", "input_callback", 0): "sentry"}),
        ("litellm_settings: {cache: true, cache_params: {type: redis}}", {}),
        ("litellm_settings: {cache: false, cache_params: {type: redis-semantic}}", {}),
        ('litellm_settings: {callbacks: ["my_hooks.handler"], success_callback: ["s3"]}', {}),
        (
            "guardrails: [{guardrail_name: g, litellm_params: {guardrail: hide-secrets, mode: pre_call}}]",
            {("guardrails", 0, "litellm_params", "guardrail"): "secret-detection"},
        ),
        (
            "general_settings: {key_management_system: azure_key_vault}",
            {("general_settings", "key_management_system"): "azure"},
        ),
        ("litellm_settings: {callbacks: [otel]}", {("litellm_settings", "callbacks", 0): "opentelemetry"}),
        (
            "litellm_settings: {callbacks: [arize, lunary]}",
            {("litellm_settings", "callbacks", 0): "opentelemetry", ("litellm_settings", "callbacks", 1): None},
        ),
    ],
)
def test_groups_that_a_configuration_needs(text: str, needed: dict[tuple[str | int, ...], str | None]) -> None:
    """A configuration needs the groups of its callbacks, guardrails and cache, at the key that needs them."""
    found = missing_packages(gateway(text), locked_names(read_lock()))
    assert {each.path: each.group for each in found} == needed


def test_provider_that_needs_a_group() -> None:
    """A model of Vertex AI needs the group google, and a mocked one does not."""
    model = "model_list: [{model_name: a, litellm_params: {model: vertex_ai/gemini-3-pro}}]\n"
    [found] = missing_packages(parse_config(model, "f.yml"), locked_names(read_lock()))
    assert (found.group, found.path) == ("google", ("model_list", 0, "litellm_params", "model"))
    assert missing_packages(gateway(""), locked_names(read_lock())) == ()


# --- choosing ---


@pytest.mark.parametrize(
    ("additions", "chosen"),
    [
        (Additions(), ("langfuse", "my-callback==1.2")),
        (Additions(wanted=("sentry",)), ("langfuse", "my-callback==1.2", "sentry")),
        (Additions(wanted=("My_Callback==1.3",)), ("langfuse", "My_Callback==1.3")),
        (
            Additions(wanted=("dist/my_callback-1.4-py3-none-any.whl",)),
            ("langfuse", "dist/my_callback-1.4-py3-none-any.whl"),
        ),
        (Additions(dropped=("my_callback",), needed=("langfuse",)), ("langfuse",)),
    ],
)
def test_additions_are_kept(additions: Additions, chosen: tuple[str, ...]) -> None:
    """A release keeps the additions of the one before, a new version replaces one, and --without removes one."""
    assert choose_additions(("langfuse", "my-callback==1.2"), additions) == chosen


@pytest.mark.parametrize(
    ("additions", "said"),
    [
        (Additions(dropped=("sentry",)), "sentry: the release has no such addition"),
        (Additions(dropped=("langfuse",), needed=("langfuse",)), "langfuse: the configuration needs it"),
        (Additions(wanted=("--index-url=x",)), "neither a group, nor a package"),
        (Additions(wanted=("x @ https://example.invalid/x.tar.gz",)), "neither a group, nor a package"),
        (Additions(wanted=("odd.whl",)), "not the name of a wheel"),
    ],
)
def test_additions_that_are_refused(additions: Additions, said: str) -> None:
    """A name that can't be added or removed is refused with the reason."""
    with pytest.raises(UsageError, match=said):
        choose_additions(("langfuse",), additions)


# --- building the lock ---


def test_each_group_fits_the_lock() -> None:
    """Any groups can be added without a network: the lock gets their sections, and loses them again."""
    source = find_source()
    extended = extend(source, group_names())
    assert additions_of(extended.lock) == group_names()
    assert extended.identifier != source.identifier
    one = extend(extended, ["sentry"], Kept(extended.lock))
    assert additions_of(one.lock) == ("sentry",)
    assert {pin.name for pin in parse_lock(one.lock)} - {pin.name for pin in parse_lock(source.lock)} == {
        "sentry-sdk"
    }
    assert extend(one, [], Kept(one.lock)).identifier == source.identifier


@pytest.mark.parametrize("has_uv", [True, False], ids=["uv", "pip"])
def test_wheel_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_uv: bool) -> None:
    """A wheel of the user's own is in the lock with its hash and what it needs. Later releases of the same Python
    keep that, whatever the current folder has, until the user gives another wheel.
    """
    if not has_uv:
        monkeypatch.setattr(module, "find_uv", lambda: None)
    helper = own_wheel(tmp_path / "index", "my_helper", "2.0")
    wheel = own_wheel(tmp_path, "my_callback", "1.2", "my-helper>=1", "requests")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    source = replace(find_source(), lock="requests==9.9 --hash=sha256:" + "a" * 64 + "\n")
    own_wheel(tmp_path / "index", "requests", "9.9")
    own_wheel(tmp_path / "index", "requests", "10.0")
    extended = extend(source, [str(wheel)])
    assert additions_of(extended.lock) == (wheel.name,)
    [section] = split_lock(extended.lock)[1].values()
    pins = {pin.name: pin for pin in parse_lock(section)}
    assert set(pins) == {"my-callback", "my-helper"}
    assert pins["my-callback"].hashes == (hashlib.sha256(wheel.read_bytes()).hexdigest(),)
    assert pins["my-helper"].hashes == (hashlib.sha256(helper.read_bytes()).hexdigest(),)

    kept = Kept(extended.lock, {wheel.name: wheel})
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert extend(source, choose_additions(kept.names, Additions()), kept).lock == extended.lock
    changed = own_wheel(tmp_path / "other", "my_callback", "1.2", summary="changed")
    monkeypatch.chdir(changed.parent)
    assert extend(source, choose_additions(kept.names, Additions()), kept).lock == extended.lock
    with pytest.raises(InstallerError, match="can't be added"):
        extend(source, kept.names, replace(kept, python="3.9.2"))  # resolved again, without an index
    given = choose_additions(kept.names, Additions(wanted=(changed.name,)))
    assert extend(source, given, kept).lock != extended.lock


@pytest.mark.parametrize("has_uv", [True, False], ids=["uv", "pip"])
def test_files_of_the_current_folder_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_uv: bool
) -> None:
    """Neither uv nor pip reads settings or Python from the current folder, which may be that of another user.

    A relative path in the environment begins there all the same.
    """
    if not has_uv:
        monkeypatch.setattr(module, "find_uv", lambda: None)
    own_wheel(tmp_path / "index", "my_callback", "1.2")
    own_wheel(tmp_path / "hostile", "my_callback", "9.9")
    (tmp_path / "uv.toml").write_text('find-links = ["hostile"]\n', encoding="utf-8")
    for name in ("pip", "venv", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", "index")
    extended = extend(replace(find_source(), lock="", groups=""), ["my-callback"])
    assert additions_of(extended.lock) == ("my-callback==1.2",)


def test_package_that_conflicts(tmp_path: Path) -> None:
    """A package that needs another version of a locked package is refused with that reason."""
    wheel = own_wheel(tmp_path, "my_callback", "1.2", "click<1")
    with pytest.raises(InstallerError, match=r"my_callback-1\.2.* can't be added to the release: .*click") as caught:
        extend(find_source(), [str(wheel)])
    assert caught.value.code == 71


def test_wheel_that_does_not_exist(tmp_path: Path) -> None:
    """A wheel that does not exist is refused with its name."""
    with pytest.raises(MissingError, match=r"my_callback-1\.2-py3-none-any\.whl doesn't exist"):
        extend(find_source(), [str(tmp_path / "my_callback-1.2-py3-none-any.whl")])


def test_group_for_another_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a lock that the shipped groups don't fit, what setup.cfg requires of a group is resolved, extras too."""
    wanted: list[str] = []

    def resolve(_self: object, _name: str, requirements: list[str], *_: object) -> tuple[Pin, ...]:
        wanted.extend(requirements)
        return ()

    monkeypatch.setattr(module._Resolver, "resolve", resolve)
    declared = [*(requires(DISTRIBUTION) or ()), "click ; python_version > '3'"]
    monkeypatch.setattr(module, "requires", lambda _name: declared)
    extend(replace(find_source(), groups=""), ["google"])
    assert wanted == ["google-auth[requests]>=2.40"]


def test_unknown_group_is_not_taken_for_a_package() -> None:
    """A group that another version had is no package of that name from the index."""
    kept = Kept(read_lock() + "# with: gone\nx==1 --hash=sha256:" + "a" * 64 + "\n")
    other = replace(find_source(), lock="litellm==1 --hash=sha256:" + "a" * 64 + "\n", groups="")
    with pytest.raises(InputError, match="has no group gone") as caught:
        extend(other, kept.names, kept)
    assert "--without gone" in caught.value.hint


def test_bundle_without_an_addition() -> None:
    """A bundle that lacks an addition is refused with the command that makes another one, and so is one with an
    addition that --without names.
    """
    require_additions(Path("b.tar"), read_lock() + "# with: sentry\n", ["sentry"])
    with pytest.raises(InputError, match=r"b\.tar does not have langfuse") as caught:
        require_additions(Path("b.tar"), read_lock() + "# with: sentry\n", ["sentry", "langfuse"])
    assert "litellmctl bundle --with langfuse" in caught.value.hint
    with pytest.raises(UsageError, match=r"--without sentry: b\.tar has it"):
        require_additions(Path("b.tar"), read_lock() + "# with: sentry\n", [], ["sentry"])


def test_host_without_an_index(tmp_path: Path) -> None:
    """If the packages of a lock can't be fetched, the hint has the command that makes a bundle with its additions."""
    lock = tmp_path / LOCK
    lock.write_text("no-such-package==1 --hash=sha256:" + "a" * 64 + "\n", encoding="utf-8")
    with pytest.raises(CommandError) as caught:
        install_lock(make_venv(tmp_path / "venv", find_source().python), lock, additions=["sentry"])
    assert "no-such-package" in caught.value.stderr
    assert caught.value.hint.endswith("litellmctl bundle --with sentry")


# --- a host ---


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A host with a release in use that has sentry."""
    layout = Layout(root=tmp_path)
    release = layout.real(layout.release("0.1.0-aaa"))
    release.mkdir(parents=True)
    (release / RELEASE_MARK).write_text("{}", encoding="utf-8")
    (release / LOCK).write_text(extend(find_source(), ["sentry"]).lock, encoding="utf-8")
    layout.real(layout.current).symlink_to("releases/0.1.0-aaa")
    return layout


LANGFUSE = gateway('litellm_settings: {success_callback: ["langfuse"], callbacks: ["sentry"]}')


def test_install_adds_what_the_configuration_needs(layout: Layout) -> None:
    """An install builds a release with the groups that the configuration needs and those of the release in use, and
    says so; then it builds none for the same.
    """
    choice = choose_release(layout, LANGFUSE)
    assert choice.source is not None
    assert set(additions_of(choice.source.lock)) == {"langfuse", "sentry"}
    assert choice.notes == (
        "Added to the release: the group langfuse. litellm_settings.success_callback[0]: langfuse needs the package"
        " langfuse.",
    )
    assert choose_release(layout, gateway(""), wanted=("sentry",)).notes == ()  # it has that
    plain = choose_release(layout, gateway(""), dropped=("sentry",))
    assert plain.identifier == find_source().identifier


def test_check_names_what_the_release_lacks(layout: Layout, tmp_path: Path) -> None:
    """`config check` names the package that the release in use lacks, its group and the command that adds it; without
    a release it is a note, since the install will add it.
    """
    [finding], notes = package_findings(layout, LANGFUSE)
    assert (finding.code, finding.place.key, notes) == ("missing-package", "litellm_settings.success_callback[0]", ())
    assert "langfuse needs the package langfuse, which the release in use does not have" in finding.message
    assert finding.remedy == "To add the group langfuse, run: sudo litellmctl install"
    findings, notes = package_findings(Layout(root=tmp_path / "fresh"), LANGFUSE)
    assert findings == ()
    assert "langfuse needs the package langfuse. An install adds it, with the group langfuse." in notes[1]
    assert "sentry needs the package sentry-sdk" in notes[0]


def test_reload_needs_the_group(layout: Layout) -> None:
    """`config use` and `reload` refuse a configuration whose group the release lacks, with the command to run."""
    require_packages(layout, gateway('litellm_settings: {callbacks: ["sentry"]}'), "sudo litellmctl install")
    with pytest.raises(InputError, match=r"config\.yaml:\d+:\d+: .*langfuse needs the package langfuse") as caught:
        require_packages(layout, LANGFUSE, "sudo litellmctl install -c mine.yml")
    assert caught.value.hint == "To add the group langfuse, run: sudo litellmctl install -c mine.yml"


def test_misspelt_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resembles a group, and that the index lacks, gets the name of the group."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(InstallerError) as caught:
        extend(find_source(), ["langfus"])
    assert caught.value.hint.startswith("Did you mean the group langfuse?")


def test_group_of_an_earlier_release() -> None:
    """The addition prometheus of an earlier release is met by each release now, and never taken for a package."""
    assert choose_additions(("prometheus", "langfuse"), Additions(wanted=("prometheus",))) == ("langfuse",)
    assert choose_additions(("prometheus",), Additions(dropped=("prometheus",))) == ()
    old = (
        "litellm==1 --hash=sha256:"
        + "a" * 64
        + "\n# with: prometheus\nprometheus-client==1 --hash=sha256:"
        + "b" * 64
    )
    assert extend(find_source(), ("prometheus",), Kept(old + "\n")).identifier == find_source().identifier
    require_additions(Path("b.tar"), read_lock(), ["prometheus"])
