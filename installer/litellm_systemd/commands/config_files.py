"""The files of the configurations: as they ship, as an install leaves them, and as a user gives them by a path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path

from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.gateway.config import (
    ConfigChoice,
    ConfigOrigin,
    FileText,
    GatewayConfig,
    Lookup,
    localize,
    path_exists,
    read_config,
    read_text,
    real_path,
    render_document,
)
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import read_manifest
from litellm_systemd.host.state import FileKind, Record, is_edited
from litellm_systemd.resources import USER_FILE, config_names, shared_names
from litellm_systemd.resources import read_config as read_shipped
from litellm_systemd.user_files import read_trusted

#: Texts by their path below /etc/litellm/configs.
Texts = Mapping[str, bytes]

#: A name for the folder of the shipped configurations, which need not be a folder on the disk.
_SHIPPED = Path("/shipped")


def shipped_texts(region: str | None) -> dict[str, bytes]:
    """The configurations that ship and the files that they include, for a region.

    Raises:
        InputError: Bedrock has none of the models in that region.
    """
    texts = {name: read_shipped(name) for name in (*config_names(), *shared_names())}
    return {name: (localize(text, region) if region else text).encode() for name, text in texts.items()}


def shipped_config(name: str, region: str | None = None) -> GatewayConfig:
    """A configuration as it ships, for a region, regardless of what is installed.

    Raises:
        InputError: Bedrock has none of the models in that region.
    """
    return read_config(_SHIPPED / name, _shipped_files(region).get)


def _shipped_files(region: str | None) -> dict[Path, FileText]:
    return {_SHIPPED / name: FileText(text.decode(), name) for name, text in shipped_texts(region).items()}


def read_gateway(layout: Layout, choice: ConfigChoice, region: str | None = None) -> GatewayConfig:
    """The chosen configuration as it is now; a shipped one that is not installed, as an install would write it.

    Raises:
        InstallerError: it can't be read or used.
    """
    if choice.origin is ConfigOrigin.INSTALLED and choice.path is not None:
        return read_config(choice.path)
    texts = shipped_texts(region if choice.origin is ConfigOrigin.SHIPPED else None)
    return read_for_install(layout, choice, texts, shown=str)[0]


def read_for_install(
    layout: Layout,
    choice: ConfigChoice,
    texts: Texts,
    shown: Callable[[str], str] | None = None,
    take: Container[str] = (),
) -> tuple[GatewayConfig, dict[str, bytes]]:
    """The chosen configuration as it is once `texts` are installed, and the other files to install.

    Args:
        layout: the host.
        choice: by its path, it is installed too, with the files that it includes.
        texts: what ships. What the user edited on the host stays there, and counts.
        shown: how messages name a file of `texts`; by default by its path, or before it is installed, its name.
        take: the paths on the host of files that are installed although the user edited them.

    Raises:
        InstallerError: it can't be read or used, or includes a file that can't be taken along.
    """
    lookup = _after_install(layout, texts, shown or partial(_shown, layout), take)
    if choice.origin is not ConfigOrigin.PATH or choice.path is None:
        return read_config(_real(layout, choice.name), lookup), {}
    files: dict[str, bytes] = {}
    lookup = _given(layout, choice.path, texts, lookup, files, take)
    gateway = read_config(_real(layout, choice.name), lookup)
    return gateway, files


def installed_paths(layout: Layout) -> frozenset[str]:
    """The paths on the host of all installed configurations and the files that they include."""
    folder = _real(layout, "")
    return frozenset(layout.config(str(path.relative_to(folder))) for path in folder.rglob("*"))


def loaded_names(layout: Layout, name: str, gateway: GatewayConfig) -> tuple[str, ...]:
    """The configuration and the files that it includes or imports, by their paths below /etc/litellm/configs."""
    folder = _real(layout, "")
    others = (str(path.relative_to(folder)) for path in gateway.other_files if path.is_relative_to(folder))
    return (name, *others)


def standalone(name: str, own: Path | None, gateway: GatewayConfig) -> Path | Texts:
    """What another runtime than the service can read: the user's file if that is enough.

    Otherwise the files to write into one folder: the configuration with the included files merged in, by that name,
    and then its Python files.
    """
    if own is not None:
        with contextlib.suppress(InstallerError):
            if read_config(own).digest == gateway.digest:
                return own
    texts = {name: render_document(gateway.document).encode()}
    for file in gateway.python_files:
        folder = next(each for each in gateway.folders if file.path.is_relative_to(each))
        texts[str(file.path.relative_to(folder))] = file.text.encode()
    return texts


def edited_note(layout: Layout, path: str, text: bytes) -> str | None:
    """What to do about an edited copy of a shipped configuration that doesn't include the user's own file.

    The copy was edited before that file existed. An upgrade keeps it and adds nothing to it.
    """
    name = path.removeprefix(f"{layout.configs}/")
    if name not in config_names():
        return None
    shipped, copy = shipped_config(name), _SHIPPED / name
    with contextlib.suppress(InstallerError):
        edited = read_config(copy, {**_shipped_files(None), copy: FileText(text.decode(errors="replace"), path)}.get)
        if _SHIPPED / USER_FILE in {*shipped.includes} - {*edited.includes}:
            return _edited_note(layout, path, [each for each in edited.names if each not in shipped.names])
    return None


def _edited_note(layout: Layout, path: str, models: list[str]) -> str:
    own = f"its own models ({', '.join(models)})" if models else "your changes"
    return (
        f"{path} is an edited copy of an earlier version: it doesn't get what upgrades change, nor the models of"
        f" {layout.config(USER_FILE)}. Move {own} there (docs/configurations.md), then run:"
        " sudo litellmctl install --take-ours"
    )


def _shown(layout: Layout, name: str) -> str:
    path = layout.config(name)
    return path if layout.real(path).exists() else name


def _real(layout: Layout, name: str) -> Path:
    return real_path(layout.real(layout.configs)) / name


def _stays(layout: Layout, name: str, manifest: Mapping[str, Record]) -> bool:
    """Whether an install keeps the installed file: the user edited it, or it is the user's own."""
    found, record = observe_file(layout, layout.config(name)), manifest.get(layout.config(name))
    if found is None or found.kind is not FileKind.FILE:
        return False
    return name == USER_FILE or is_edited(found, record)


def _after_install(layout: Layout, texts: Texts, shown: Callable[[str], str], take: Container[str]) -> Lookup:
    manifest = read_manifest(layout)
    found = {
        _real(layout, name): FileText(text.decode(), shown(name))
        for name, text in texts.items()
        if not _stays(layout, name, manifest) or (layout.config(name) in take and name != USER_FILE)
    }
    return found.get


def _given(
    layout: Layout, path: Path, texts: Texts, installed: Lookup, files: dict[str, bytes], take: Container[str]
) -> Lookup:
    """Look up the user's file and what it includes next to it, before what is installed; `files` collects them."""
    text, folder, configs = _read_given(path), real_path(path).parent, _real(layout, "")
    files[path.name] = text.encode()

    def lookup(file: Path) -> FileText | None:
        if not file.is_relative_to(configs):
            _require_installed(layout, path, file)
            return None
        name = str(file.relative_to(configs))
        if name == path.name:
            return FileText(text, str(path))
        own = folder / name
        if own == file or not path_exists(own):
            return installed(file)
        return _take_along(layout, own, name, texts, files, take) or installed(file)

    return lookup


def _read_given(path: Path) -> str:
    """A file that the user names, or that such a file includes."""
    return read_text(path, str(path), read=read_trusted)


def _require_installed(layout: Layout, path: Path, file: Path) -> None:
    if not (file.is_relative_to(layout.real(layout.etc).absolute()) and path_exists(file)):
        raise InputError(
            f"{path} includes {file.name} from another folder, which can't be taken along",
            f"Move it next to {path.name}, or below it, and change the entry.",
        )


def _take_along(
    layout: Layout, own: Path, name: str, texts: Texts, files: dict[str, bytes], take: Container[str]
) -> FileText | None:
    """Add an included file to those to install; None if the installed file is used in its place."""
    text = _read_given(own)
    stays = _stays(layout, name, read_manifest(layout))
    if name in texts and text.encode() in (texts[name], read_shipped(name).encode()):
        return None
    if name == USER_FILE and stays:
        found = observe_file(layout, layout.config(name))
        stays = found is not None and found.content not in (texts[name], text.encode())
    if name in texts and (name != USER_FILE or stays):
        raise InputError(
            f"{own} isn't {layout.config(name)}, whose name it has",
            f"Make your changes there, or rename {own.name} and the entry that includes it.",
        )
    files[name] = text.encode()
    # As any file that was edited on the host, the installed one stays and is what the service will read.
    return None if stays and layout.config(name) not in take else FileText(text, str(own))
