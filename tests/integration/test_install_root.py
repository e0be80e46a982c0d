"""install and uninstall with --root: a file system image that no systemd runs in."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")

KILLER = Path(__file__).parents[1] / "system/kill_at_each_step.py"


def ctl(*arguments: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    """Run litellmctl as a program, with --json and without a network. Returns the report."""
    env = {**os.environ, "UV_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    argv = (sys.executable, "-m", "litellm_systemd", *arguments, "--json")
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(argv, env=env, cwd=cwd, **options, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of an image with the service installed."""
    root = tmp_path_factory.mktemp("image")
    (root / "work").mkdir()
    (root / "work" / ".env").write_text("PORT=4321\nAWS_REGION_NAME=eu-central-1\n", encoding="utf-8")
    report = ctl("install", "--root", str(root), "-c", "demo.yml", cwd=root / "work")
    assert report["ok"] is True
    yield root
    before = {path.name for path in root.iterdir()}
    ctl("uninstall", "--root", str(root), "--purge", "--yes", cwd=root)
    left = [str(path) for path in root.rglob("*litellm*")]
    assert left == [], f"of {before} there is left"


def test_files_are_below_the_root(image: Path) -> None:
    """Units, environment, configurations and links are below the root, with the modes of a host."""
    modes = {
        name: stat.S_IMODE((image / name).stat().st_mode)
        for name in ("etc/litellm/litellm.env", "etc/litellm/configs/demo.yml", "etc/systemd/system/litellm.service")
    }
    assert list(modes.values()) == [0o600, 0o640, 0o644]
    assert (image / "etc/litellm/config.yaml").readlink() == Path("configs/demo.yml")
    assert stat.S_IMODE((image / "usr/local/bin/litellmctl").stat().st_mode) == 0o755
    assert "ListenStream=127.0.0.1:4321" in (image / "etc/systemd/system/litellm.socket").read_text(encoding="utf-8")


def test_user_is_created_in_the_image(image: Path) -> None:
    """The service's user is created in the image's user database and owns its files there."""
    rows = [line.split(":") for line in (image / "etc/group").read_text(encoding="utf-8").splitlines()]
    group = {row[0]: int(row[2]) for row in rows}["litellm"]
    assert (image / "etc/litellm/configs/demo.yml").stat().st_gid == group
    assert (image / "etc/litellm").stat().st_gid == group


def test_service_is_enabled_in_the_image(image: Path) -> None:
    """Service and socket are enabled for the first boot of the image."""
    wants = image / "etc/systemd/system"
    assert (wants / "multi-user.target.wants/litellm.service").is_symlink()
    assert (wants / "sockets.target.wants/litellm.socket").is_symlink()


def test_release_can_move(image: Path) -> None:
    """The release in the image contains no path of the build machine except that of its Python."""
    [release] = (image / "opt/litellm-systemd/releases").iterdir()
    assert (image / "opt/litellm-systemd/current").readlink() == Path(f"releases/{release.name}")
    assert str(image) not in (release / "bin" / "litellmctl").read_text(encoding="utf-8")
    code = "import litellm_systemd.runtime as r; print(r.__file__)"
    done = subprocess.run(
        (release / "bin/python", "-I", "-c", code), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(str(release))


def test_second_install_plans_nothing(image: Path) -> None:
    """The same install again plans nothing, in an image as on a host."""
    assert ctl("install", "--root", str(image), cwd=image / "work")["data"]["actions"] == []
    assert ctl("install", "--root", str(image), "--dry-run", cwd=image / "work")["exit_code"] == 0


def test_dry_run_lists_the_steps(image: Path) -> None:
    """--dry-run lists the steps of a change, exits with 2 and writes nothing."""
    env = image / "work" / "other.env"
    env.write_text("PORT=4322\nAWS_REGION_NAME=eu-central-1\n", encoding="utf-8")
    before = (image / "etc/systemd/system/litellm.socket").read_bytes()
    report = ctl("install", "--root", str(image), "--env-file", str(env), "--dry-run", cwd=image, code=2)
    assert report["data"]["actions"] == [
        "write /etc/systemd/system/litellm.socket (changed)",
        "write /etc/litellm/litellm.env (changed)",
    ]
    assert (image / "etc/systemd/system/litellm.socket").read_bytes() == before


@pytest.mark.parametrize("instead", ["a file", "a link elsewhere"])
def test_a_replaced_configuration_link(image: Path, instead: str) -> None:
    """If a file or another link replaces the link to the active configuration, install and the verbs that only read
    it report an error with the remedy, and never use another configuration silently.
    """
    link = image / "etc/litellm/config.yaml"
    link.unlink()
    if instead == "a file":
        link.write_bytes((image / "etc/litellm/configs/demo.yml").read_bytes())
    else:
        link.symlink_to("other.yml")
    refused = ctl("install", "--root", str(image), "--dry-run", cwd=image / "work", code=78)
    assert "/etc/litellm/config.yaml is no longer a link to an installed configuration" in refused["error"]
    assert "-c /etc/litellm/config.yaml" in refused["hint"]
    with pytest.raises(InputError, match="no longer a link to an installed configuration"):
        resolve(Request(Layout(root=image), cwd=image), read_only=True)
    planned = ctl("install", "--root", str(image), "-c", "demo", "--dry-run", cwd=image / "work", code=2)
    assert planned["data"]["actions"][-1].startswith("write /etc/litellm/config.yaml")
    link.unlink()
    link.symlink_to("configs/demo.yml")


def test_a_removed_configuration_link(image: Path) -> None:
    """If the link to the active configuration is missing, install restores it with the same target."""
    link = image / "etc/litellm/config.yaml"
    link.unlink()
    planned = ctl("install", "--root", str(image), cwd=image / "work")
    assert planned["data"]["actions"] == ["write /etc/litellm/config.yaml (new)"]
    assert link.readlink() == Path("configs/demo.yml")


def test_link_for_sudo(image: Path) -> None:
    """Where sudo does not search /usr/local/bin, an install links litellmctl to where it does, over no foreign file,
    and takes the link away when it is not needed.
    """
    sudoers, found = image / "etc/sudoers", image / "usr/bin/litellmctl"
    sudoers.write_text("Defaults secure_path = /sbin:/bin:/usr/sbin:/usr/bin\n", encoding="utf-8")
    found.parent.mkdir()
    found.write_text("of another package", encoding="utf-8")
    assert ctl("install", "--root", str(image), "--dry-run", cwd=image / "work")["data"]["actions"] == []
    found.unlink()
    linked = ctl("install", "--root", str(image), cwd=image / "work")["data"]["actions"]
    assert (linked, found.readlink()) == (
        [f"write /{found.relative_to(image)} (new)"],
        Path("/usr/local/bin/litellmctl"),
    )
    sudoers.unlink()
    assert ctl("install", "--root", str(image), cwd=image / "work")["data"]["actions"] == [
        "take away /usr/bin/litellmctl (not needed any more)"
    ]
    found.parent.rmdir()


def test_edited_environment_file_stays(image: Path) -> None:
    """An install neither overwrites an edited environment file nor plans to, comments included."""
    path = image / "etc/litellm/litellm.env"
    before = path.read_text(encoding="utf-8")
    path.write_text(before + '# mine\nHTTPS_PROXY="http://proxy:3128"\n', encoding="utf-8")
    report = ctl("install", "--root", str(image), "--dry-run", cwd=image / "work")
    assert "litellm.env" not in " ".join(report["data"]["actions"])
    assert "litellm.env was edited" in " ".join(report["notes"])
    path.write_text(before, encoding="utf-8")


def test_key_that_a_line_loses(image: Path) -> None:
    """An install with an unclosed quote in the installed file changes nothing and names the line."""
    path = image / "etc/litellm/litellm.env"
    before = path.read_text(encoding="utf-8")
    broken = f'MINE="1\n{before}'
    path.write_text(broken, encoding="utf-8")
    for arguments in ((), ("--installed",), ("--take-ours",)):
        refused = ctl("install", "--root", str(image), *arguments, cwd=image / "work", code=78)
        assert "litellm.env:1: the value of MINE has no closing quote" in refused["error"]
        assert path.read_text(encoding="utf-8") == broken
    path.write_text(before, encoding="utf-8")


def test_uninstall_without_terminal(image: Path) -> None:
    """Without a terminal, `uninstall` names --yes and removes nothing."""
    report = ctl("uninstall", "--root", str(image), cwd=image, code=64)
    assert "--yes" in json.dumps(report)
    assert (image / "etc/litellm/litellm.env").exists()


def test_prefix_cannot_change(image: Path) -> None:
    """A prefix other than that of the installation, or one that is not a plain path, is refused."""
    refused = ctl("install", "--root", str(image), "--prefix", "/srv/other", cwd=image / "work", code=64)
    assert "installed below /opt/litellm-systemd" in refused["error"]
    assert (
        "plain absolute path" in ctl("install", "--root", str(image), "--prefix", "a b", cwd=image, code=64)["error"]
    )


def test_folder_in_place_of_a_file(image: Path) -> None:
    """A folder in place of a file is reported as such before anything is changed."""
    env = image / "work" / "third.env"
    env.write_text("PORT=4323\nAWS_REGION_NAME=eu-central-1\n", encoding="utf-8")
    unit = image / "etc/systemd/system/litellm.socket"
    before = unit.read_bytes()
    command = image / "usr/local/bin/litellmctl"
    command.unlink()
    command.mkdir()
    refused = ctl("install", "--root", str(image), "--env-file", str(env), cwd=image, code=73)
    assert "litellmctl is a folder" in refused["error"]
    assert unit.read_bytes() == before
    assert "4321" in (image / "etc/litellm/litellm.env").read_text(encoding="utf-8")
    command.rmdir()
    ctl("install", "--root", str(image), cwd=image / "work")
    assert command.is_file()


def test_folder_in_place_of_the_environment_file(image: Path) -> None:
    """A folder in place of the environment file is an error with its path, before anything is changed."""
    target = image / "etc/litellm/litellm.env"
    kept = target.read_bytes()
    target.unlink()
    target.mkdir()
    refused = ctl("install", "--root", str(image), cwd=image / "work", code=78)
    target.rmdir()
    target.write_bytes(kept)
    target.chmod(0o600)
    assert "litellm.env is a folder" in refused["error"]


def test_damaged_manifest(image: Path) -> None:
    """A damaged manifest is an error with its path."""
    manifest = image / "var/lib/litellm-systemd/manifest.json"
    good = manifest.read_bytes()
    manifest.write_text("{", encoding="utf-8")
    refused = ctl("install", "--root", str(image), cwd=image / "work", code=78)
    manifest.write_bytes(good)
    assert "not the manifest of an install" in refused["error"]


def kill_at_steps(root: Path, *commands: list[str], stride: int, signals: list[int]) -> list[dict[str, Any]]:
    """Send litellmctl one of these signals at steps of these two command lines in turn."""
    plan = {
        "commands": commands,
        "trees": [str(root)],
        # The last holder of the lock, failed attempts, and the release, which is not rebuilt.
        "ignored": [
            str(root / name)
            for name in (
                "var/lib/litellm-systemd/lock",
                "var/lib/litellm-systemd/failed",
                "opt/litellm-systemd/releases",
            )
        ],
        "warm": [*commands[0], "--dry-run"],
        "release": str(root / "opt/litellm-systemd/current"),
        "primes": True,
        "stride": stride,
        "first": 1,
        "alternate": False,
        "signals": signals,
    }
    # With the release's own Python nothing is built, so each run takes only the time of its steps.
    argv = (str(root / "opt/litellm-systemd/current/bin/python"), str(KILLER), json.dumps(plan))
    env = {**os.environ, "UV_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(argv, env=env, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


@pytest.mark.parametrize(
    ("stride", "signals"), [(1, [signal.SIGKILL]), (5, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])]
)
def test_killed_install_converges(image: Path, stride: int, signals: list[int]) -> None:
    """An install that is killed at any step reaches the same final state, byte for byte, when it runs again. After
    SIGINT, SIGTERM or SIGHUP it undoes its changes and exits with the code of the signal.
    """
    commands = []
    for port in (4321, 4322):
        env = image / "work" / f"{port}.env"
        env.write_text(f"PORT={port}\nLITELLM_MASTER_KEY=sk-0123456789abcdef\n", encoding="utf-8")
        commands.append(["install", "--root", str(image), "--env-file", str(env), "-c", "demo.yml", "--json"])
    results = kill_at_steps(image, *commands, stride=stride, signals=signals)
    assert [result["wrong"] for result in results] == [[], []]
    assert all(result["kills"] * stride > 50 for result in results)
