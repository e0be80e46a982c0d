"""The scripts before they change anything: their options, and what they print of a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from litellm_systemd.cli import installation
from tests.bundle import REPOSITORY

#: A broken check of the options would install. This user can't.
WITHOUT_ROOT = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--") if os.geteuid() == 0 else ()


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = (*WITHOUT_ROOT, str(checkout / "scripts" / script), *arguments)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/proc/none"}
    return subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of the checkout that every user can read: the checkout itself may be in a home folder."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "docs", "tests")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(REPOSITORY, f"{folder}/checkout", ignore=ignored)
        subprocess.run(("chmod", "-R", "a+rX", folder), check=True)
        yield Path(folder, "checkout")


@pytest.mark.parametrize(
    ("name", "program", "verb"),
    [
        ("install", "litellmctl", installation.install),
        ("foreground", "litellmctl", installation.rehearse),
        ("bake", "litellmctl releases", installation.build),
    ],
)
def test_options_of_scripts_are_those_of_litellmctl(name: str, program: str, verb: click.Command) -> None:
    """quickstart.sh and bake.sh know exactly the options of the verb that they run. To write the file again:
    COLUMNS=80 .venv/bin/litellmctl install --help >scripts/install.help (or rehearse, foreground.help; or releases
    build, bake.help)
    """
    parent = click.Context(click.Group(), info_name=program, help_option_names=["-h", "--help"])
    context = click.Context(verb, info_name=verb.name, parent=parent, terminal_width=78)
    written = (REPOSITORY / f"scripts/{name}.help").read_text(encoding="utf-8")
    assert written.rstrip() == verb.get_help(context).rstrip()


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "name", ["bake.sh", "lock.sh", "manage-litellm.sh", "quickstart.sh", "release.sh", "setup_env.sh", "test.sh"]
)
def test_help(checkout: Path, name: str, option: str) -> None:
    """--help prints how to call the script, from any folder, and changes nothing."""
    done = run(checkout, name, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name} [" in done.stdout or f"{name}  " in done.stdout
    assert not done.stdout.startswith("#")
    if name == "quickstart.sh":
        assert "Supported: Debian 12 and 13" in done.stdout
        assert "--verify-every TIME" in done.stdout


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("quickstart.sh --bundel x", 64, "unknown option: --bundel"),
        ("quickstart.sh -x", 64, "unknown option: -x"),
        ("quickstart.sh demo.yml", 64, "unexpected argument: demo.yml"),
        ("quickstart.sh -c", 64, "-c needs a value: -c CONFIG"),
        ("quickstart.sh --no-verify=1", 64, "--no-verify takes no value"),
        ("quickstart.sh --verify-every never", 64, "not a time such as 15min"),
        ("quickstart.sh --with frobnicate", 64, "neither a group, NAME==VERSION nor the path of a wheel"),
        (
            "quickstart.sh --config=./none.yml",
            66,
            "./none.yml: neither a file nor one of: access_key_config.yml demo",
        ),
        ("quickstart.sh -enone.env", 66, "-e none.env: there is no such file"),
        ("quickstart.sh --bundle none.tar", 66, "--bundle none.tar: there is no such file"),
        ("test.sh --fats", 64, "unknown option: --fats"),
        ("test.sh tests/none", 66, "tests/none: there are no such tests"),
        ("lock.sh --upgarde", 64, "unknown option"),
        ("release.sh --no-bundle", 64, "unknown option: --no-bundle"),
        ("release.sh --bundle 3.9-arm", 64, "not a target such as 3.11-x86_64"),
        ("manage-litellm.sh --frob", 64, "unknown argument: --frob"),
    ],
)
def test_wrong_options(checkout: Path, line: str, code: int, message: str) -> None:
    """A mistyped option or a wrong value is an error, before anything is installed or downloaded."""
    script, *arguments = line.split()
    done = run(checkout, script, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    first = done.stderr.splitlines()[0]
    assert message in first
    assert first.startswith(f"{script}: ")


def test_an_option_that_needs_root(checkout: Path) -> None:
    """Without root, an option of the install alone is refused at once."""
    done = run(checkout, "quickstart.sh", "--dry-run")
    assert done.returncode == 64
    assert "--dry-run needs root and systemd" in done.stderr


@pytest.mark.parametrize("line", ["-c demo.yml", "--config=demo.yml", "-e CHECKOUT/configs/env.example", "--json"])
def test_options_without_root(checkout: Path, line: str) -> None:
    """Without root, the options of `rehearse --foreground` are accepted, the short ones too."""
    done = run(checkout, "quickstart.sh", *line.replace("CHECKOUT", str(checkout)).split())
    assert (done.returncode, "/proc/none/.local/share is not writable" in done.stderr) == (74, True), done.stderr


def test_paths_are_those_of_the_caller(tmp_path: Path) -> None:
    """A path is relative to the folder of the caller, not to the checkout."""
    (tmp_path / "my.env").touch()
    script = 'CALLER=$1; cd "$2"; . scripts/lib.sh; parse_options scripts/install.help -e my.env -c demo --json;'
    script += 'printf "%s\\n" "${arguments[@]}"'
    argv = ("bash", "-euc", script, "quickstart.sh", str(tmp_path), str(REPOSITORY))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["-e", f"{tmp_path}/my.env", "-c", "demo", "--json"], done.stderr


def test_install_in_a_container(tmp_path: Path) -> None:
    """In the container quickstart.sh runs again with its arguments, and without the PYTHONPATH of the container."""
    script = tmp_path / "scripts/quickstart.sh"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "$*${PYTHONPATH-}"\n', encoding="utf-8")
    script.chmod(0o755)
    text = (REPOSITORY / "scripts/quickstart.sh").read_text(encoding="utf-8")
    function = text[text.index("install_in_a_box() {") :].partition("\n}\n")[0]
    stubs = (
        'step() { :; }; run_box() { while [[ $1 != -- ]]; do shift; done; PYTHONPATH=x "${@:2}"; }; BUNDLE=/a.tar;'
    )
    argv = ("bash", "-euc", f"CHECKOUT=$1; {stubs}\n{function}\n}}\ninstall_in_a_box -c demo", "-", str(tmp_path))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "--bundle /a.tar -c demo\n"), done.stderr


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by SSLCertVerificationError(1, '[SSL: "
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate'\n"
            "Could not fetch URL https://user:pw@pip.example/simple/uv/: x\n"
            "ERROR: No matching distribution found for uv\n",
            "the TLS certificate of pip.example is not trusted",
        ),
        (
            "error: Failed to fetch: https://pip.example/\n  cause: invalid peer certificate: UnknownIssuer\n",
            "SSL_CERT_FILE=/path/to/ca.pem",
        ),
        (
            "  cause: Failed to fetch: https://pypi.org/simple/h11/\n  cause: dns error\n",
            "pypi.org could not be reached. If this network needs a proxy",
        ),
        ("  cause: tunnel error: proxy authorization required\n", "the proxy wants a user name and a password"),
        ("OSError('Tunnel connection failed: 407 Proxy Authentication Required')", "the proxy wants a user name"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device\n", "a file system is full (/"),
        (
            "  cause: Because aiohappyeyeballs was not found in the package registry\n",
            "Because aiohappyeyeballs was not found: the package index",
        ),
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 140 (apt-get)\n",
            "another package manager is running (held by process 140 (apt-get))",
        ),
        ("E: dpkg was interrupted, you must manually run 'dpkg'\n", "run: sudo dpkg --configure -a"),
        ("E: Unable to locate package python3-venv\n", "Check /etc/apt/sources.list"),
        (
            "W: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Could not connect\n"
            "E: Package 'python3-venv' has no installation candidate\n",
            "127.0.0.1:9 could not be reached",
        ),
        ("Error: Unable to find a match: python3.12\n", "no source of the package manager has it"),
        ("error: something new\n\n", "error: something new"),
    ],
)
def test_the_cause_of_a_failure(tmp_path: Path, log: str, cause: str) -> None:
    """What apt, dnf, pip or uv printed becomes one line with the cause and the next step, without a password."""
    path = tmp_path / "log"
    path.write_text(log, encoding="utf-8")
    script = 'CALLER=/; . scripts/lib.sh; LOG=$1; give_up "downloading"'
    argv = ("bash", "-euc", script, "quickstart.sh", str(path))
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    done = subprocess.run(argv, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 71
    [line] = done.stderr.splitlines()
    assert line.startswith("quickstart.sh: downloading failed: ")
    assert line.endswith(f"Details: {path}")
    assert cause in line
    assert "user:pw" not in line
