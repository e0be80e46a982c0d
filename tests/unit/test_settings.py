"""The .env becomes Settings: which values are accepted, which are refused, and with what message (from data)."""

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
    """An invalid .env is refused with the line, the reason and the remedy of the case, and exit code 78."""
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
    """Byte order mark, CRLF, non-ASCII text and a missing last newline are accepted."""
    path = tmp_path / ".env"
    path.write_bytes(content)
    assert dict(read_dotenv(path).values) == expected


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is refused, with the line of the first invalid byte."""
    path = tmp_path / ".env"
    path.write_bytes(b"A=1\nB=gr\xf6\xdfe\n")
    with pytest.raises(InputError, match=r"\.env:2: not UTF-8 text"):
        read_dotenv(path)


def test_missing(tmp_path: Path) -> None:
    """A missing file has its own error, with the verb that creates one."""
    with pytest.raises(MissingError, match="no such file") as caught:
        read_dotenv(tmp_path / ".env")
    assert "litellmctl init" in caught.value.hint


def test_folder(tmp_path: Path) -> None:
    """A folder in place of the file is reported as a folder."""
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
    """A value that execve(2) would reject is refused at install, with the name of the variable."""
    with pytest.raises(InputError, match=error):
        settings_of({"env": env})


def test_secrets_do_not_show() -> None:
    """The repr of settings, which may appear in a traceback or a log, has no secrets."""
    pair = f"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY={'s3cret/+' * 5}"
    settings = settings_of({"env": f"LITELLM_MASTER_KEY=sk-secret-1\n{pair}"})
    assert "sk-secret-1" not in repr(settings)
    assert "s3cret" not in repr(settings)
