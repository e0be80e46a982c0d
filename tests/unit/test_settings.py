"""From the text of a .env to Settings, as data: what is read, what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from litellm_systemd.contract import ExitCode
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv, read_dotenv
from litellm_systemd.errors import InputError, MissingError

CASES = yaml.safe_load((Path(__file__).parent / "settings_cases.yml").read_text(encoding="utf-8"))


def settings_of(case: dict[str, Any]) -> Settings:
    dotenv = parse_dotenv(case["env"], ".env")
    return build_settings(dotenv, installed=case.get("installed", {}), new_key=lambda: "sk-made")


@pytest.mark.parametrize("case", [pytest.param(c, id=c["promise"]) for c in CASES if "error" not in c])
def test_accepted(case: dict[str, Any]) -> None:
    """A .env gives the service exactly the environment, and the installer the values, of the case."""
    settings = settings_of(case)
    assert dict(settings.environment) == {"LITELLM_MASTER_KEY": "sk-made", **case["environment"]}
    assert {name: getattr(settings, name) for name in case.get("is", {})} == case.get("is", {})
    for part, warning in zip(case.get("warnings", []), settings.warnings, strict=True):
        assert part in warning


@pytest.mark.parametrize("case", [pytest.param(c, id=c["promise"]) for c in CASES if "error" in c])
def test_refused(case: dict[str, Any]) -> None:
    """A .env that can't be used is refused with the line, the reason and the remedy of the case, and exit code 78."""
    with pytest.raises(InputError) as caught:
        settings_of(case)
    assert caught.value.message == case["error"]
    assert case["hint"] in caught.value.hint
    assert caught.value.code is ExitCode.CONFIG


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"\xef\xbb\xbfA=1\n", {"A": "1"}, id="byte order mark"),
        pytest.param(b"A=1\r\nB='x y'\r\n", {"A": "1", "B": "x y"}, id="CRLF"),
        pytest.param("A=größe\n".encode(), {"A": "größe"}, id="non-ASCII"),
        pytest.param(b"A=1", {"A": "1"}, id="no newline at the end"),
    ],
)
def test_bytes(tmp_path: Path, content: bytes, expected: dict[str, str]) -> None:
    """A file as editors on other systems leave it is read like any other."""
    path = tmp_path / ".env"
    path.write_bytes(content)
    assert dict(read_dotenv(path).values) == expected


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is refused, with the line that shows it."""
    path = tmp_path / ".env"
    path.write_bytes(b"A=1\nB=gr\xf6\xdfe\n")
    with pytest.raises(InputError, match=r"\.env:2: not UTF-8 text"):
        read_dotenv(path)


def test_missing(tmp_path: Path) -> None:
    """A file that isn't there is an error of its own, with the verb that writes one."""
    with pytest.raises(MissingError, match="no such file") as caught:
        read_dotenv(tmp_path / ".env")
    assert "litellmctl init" in caught.value.hint


def test_folder(tmp_path: Path) -> None:
    """A folder given as the file is called a folder."""
    with pytest.raises(InputError, match="is a folder"):
        read_dotenv(tmp_path)


@pytest.mark.parametrize(
    ("env", "error"),
    [
        pytest.param("BIG=" + "x" * 131_072, "BIG is longer than the kernel passes", id="one value"),
        pytest.param("".join(f"V{i}={'x' * 130_000}\n" for i in range(13)), "1.5 MiB in all", id="all together"),
    ],
)
def test_too_long(env: str, error: str) -> None:
    """What execve(2) would refuse is refused at install, by name."""
    with pytest.raises(InputError, match=error):
        settings_of({"env": env})


def test_secrets_do_not_show() -> None:
    """No secret shows in the repr of settings, where a traceback or a log line would carry it away."""
    pair = f"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY={'s3cret/+' * 5}"
    settings = settings_of({"env": f"LITELLM_MASTER_KEY=sk-secret-1\n{pair}"})
    assert "sk-secret-1" not in repr(settings)
    assert "s3cret" not in repr(settings)
