"""Input that is made to exhaust memory or time, read in a process of its own.

`python -m tests.unit.hostile_input FOLDER` prints one JSON object: for each
case the error of its reader, `accepted`, or what went wrong.
"""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from litellm_systemd.env.dotenv import read_dotenv
from litellm_systemd.errors import InstallerError
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import find_layout, read_installed, read_manifest
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.logs.events import group_events, read_events
from litellm_systemd.logs.known_messages import SIGNATURES
from litellm_systemd.releases.archive import LOCK, unpack
from litellm_systemd.releases.archive import read_manifest as read_bundle
from litellm_systemd.releases.bundle import open_source
from litellm_systemd.releases.checked_archive import MANIFEST
from litellm_systemd.releases.inventory import read_release

MIB = 1 << 20
MEMORY = 256 * MIB
#: Of the processor, so that a busy machine is no failure.
SECONDS = 5
DEEP = "[" * 200_000
LAUGHS = "A0=" + "ha" * 50 + "\n" + "".join(f"A{n}=${{A{n - 1}}}${{A{n - 1}}}\n" for n in range(1, 40))
YAML_LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))

#: Each value is read as a `.env`, an environment file and a configuration.
TEXTS = {
    "deep": DEEP,
    "deep mappings": "{a: " * 100_000,
    "block levels": "".join(f"{' ' * n}- \n" for n in range(3000)),
    "long line": "A=" + "x" * (10 * MIB),
    "long quoted line": 'A="' + "\\x" * (5 * MIB),
    "long run of spaces": "A=x" + " " * (10 * MIB) + "\n",
    "many lines": "A=1\n" * (2 * MIB),
    "no value": "=\n" * (MIB // 4),
    "backslashes": "\\" * (10 * MIB),
    "huge number": "A: " + "9" * 100_000,
    "huge exponent": "A: 1e999999999\nB: 0b" + "_" * 5000,
    "laughs": LAUGHS,
    "YAML laughs": YAML_LAUGHS,
    "NUL": "A=\0\0\nB: \0",
    "impossible date": "A: 2026-99-99",
    "quotes": "'\"" * (2 * MIB),
    "ladder": "model_list: [{model_name: a, litellm_params: {model: openai/b}}]\na0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 900)),
    "anchors": "".join(f"a{n}: &x [*x]\n" for n in range(1000)),
}
JSON = {
    "deep": DEEP,
    "huge number": "9" * 100_000,
    "infinity": '{"files": {"a.whl": ["x", Infinity]}, "format": 1, "version": 1}',
    "not UTF-8": '{"a": "\udcff"}',
    "long": '"' + "x" * (10 * MIB) + '"',
}


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The name of each case, and the function that reads it."""
    for name, text in TEXTS.items():
        path = folder / "text"
        path.write_text(text, encoding="utf-8")
        yield f".env: {name}", lambda path=path: read_dotenv(path)  # type: ignore[misc]
        layout = Layout(root=folder / "root")
        installed = layout.real(layout.environment_file)
        installed.parent.mkdir(parents=True, exist_ok=True)
        installed.write_text(text, encoding="utf-8")
        yield f"environment file: {name}", lambda layout=layout: read_installed(layout)  # type: ignore[misc]
        yield f"configuration: {name}", lambda path=path: read_config(path)  # type: ignore[misc]
    for name, text in JSON.items():
        yield from _json_cases(folder, name, text.encode(errors="surrogateescape"))
    yield from _archives(folder)
    for name, message in _log_messages():
        entries = [{"MESSAGE": message, "_PID": "7", "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1"}]
        yield f"log: {name}", lambda entries=entries: group_events(read_events(entries))  # type: ignore[misc]


def _json_cases(folder: Path, name: str, content: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    layout = Layout(root=folder / "root")
    mark = layout.real(layout.release("x")) / "release.json"
    for path in (layout.real(layout.manifest), layout.real(layout.undo_log), mark):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + b"\n")
    yield f"manifest: {name}", lambda: (read_manifest(layout), find_layout(layout.root, None))
    yield f"undo log: {name}", lambda: read_undo_log(layout)
    yield f"release.json: {name}", lambda: read_release(layout, "x")
    bundle = folder / "bundle.tar"
    with tarfile.open(bundle, "w") as archive:
        _add(archive, MANIFEST, content)
    yield f"bundle: {name}", lambda: read_bundle(bundle)


def _archives(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    manifest = {
        **dict.fromkeys(("version", "litellm", "python", "machine", "code", "made"), "1"),
        "format": 1,
        "files": {LOCK: ["0" * 64, 300 * MIB], "a.whl": ["0" * 64, 1]},
    }
    text = json.dumps(manifest).encode()
    large, header, offset = folder / "large.tar", folder / "header.tar", folder / "offset.tar"
    with tarfile.open(large, "w") as archive:
        _add(archive, MANIFEST, text)
        _sparse(archive, tarfile.TarInfo(LOCK), 300 * MIB)
        _add(archive, "a.whl", b"x")
    with tarfile.open(header, "w") as archive:
        long_header = tarfile.TarInfo("././@PaxHeader")
        long_header.type = tarfile.XHDTYPE
        _sparse(archive, long_header, 300 * MIB)
        _add(archive, MANIFEST, text)
    with offset.open("wb") as file:
        member = tarfile.TarInfo(MANIFEST)
        member.size = 1 << 80
        file.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    for path in (large, header, offset):
        yield f"bundle: {path.stem}", lambda path=path: unpack(path, folder / "out")  # type: ignore[misc]
    bomb, broken = folder / "bomb.whl", folder / "broken.whl"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as wheel:
        with wheel.open("litellm_systemd/zeros.py", "w") as out:
            for _ in range(400):
                out.write(bytes(MIB))
        wheel.writestr("litellm_systemd-1.dist-info/METADATA", "")
    content = bytearray(_small_wheel())
    content[60:70] = b"\xff" * 10
    broken.write_bytes(content)
    for path in (bomb, broken):
        yield f"wheel: {path.stem}", lambda path=path: open_source(path)  # type: ignore[misc]


def _small_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("litellm_systemd/a.py", "x = 1\n" * 100)
        wheel.writestr("litellm_systemd-1.dist-info/METADATA", "")
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _sparse(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> None:
    """Add a member of zeros that takes no space on the disk."""
    assert archive.fileobj is not None
    member.size = size
    archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
    archive.fileobj.seek(archive.fileobj.tell() + size)
    archive.offset = archive.fileobj.tell()


def _log_messages() -> Iterator[tuple[str, Any]]:
    pieces = (part for one in SIGNATURES if ".{" in one.regex for part in re.split(r"\||\.\{", one.regex))
    texts = (re.sub(r"\\\w\S*|[^\w ']", " ", part) for part in pieces)
    for text in ("worker 1 (pid 1) and was killed ", "0123456789abcdef ", "A1-", *dict.fromkeys(texts)):
        yield text, f"{text} " * (64_000 // (len(text) + 1))
    yield "deep", '{"a":' + DEEP
    yield "long", "x" * (4 * MIB)
    yield "not UTF-8", [255, 254] * 10_000


def run(read: Callable[[], object]) -> str:
    """How a case ended."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read()
    except InstallerError as error:
        return f"refused: {error.message[:200]}"
    except TimeoutError:
        return f"no end within {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "accepted"


def _expire(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _expire)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, read in cases(Path(sys.argv[1])):
        # One line each, at once: the case that crashes the process is the one without an outcome.
        sys.stdout.write(f"{name}\t")
        sys.stdout.flush()
        sys.stdout.write(f"{run(read)}\n")
