"""Additions to a release: groups of packages, and packages of the user's own.

The lock of a release has a section for each (see requirements_lock). The section of a group ships with this package,
in groups.lock: it fits the requirements lock that ships too. What else is added is resolved by uv or pip, with the
packages that the release has already as constraints, for one Python on one machine.

`packaging` is imported where it is needed: all verbs that change the host import this module.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InputError, InstallerError, MissingError, ProgramError, UsageError
from litellm_systemd.gateway.packages import canonical, group_names, locked_names, read_groups
from litellm_systemd.releases.checked_archive import file_entry
from litellm_systemd.releases.prisma_parts import with_engine
from litellm_systemd.releases.requirements_lock import Pin, join_lock, parse_lock, render_lock, split_lock
from litellm_systemd.releases.source import DISTRIBUTION, INDEX_HINT, Source, find_cause, wheel_hash
from litellm_systemd.releases.venvs import find_uv, index_environment, links_to, pip_argv, uv_argv
from litellm_systemd.report.progress import Step
from litellm_systemd.user_files import require_trusted

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from litellm_systemd.releases.bundle import Target

_WHEEL = ".whl"
#: Groups of earlier releases, with the package that every release has now.
_FORMER_GROUPS = {"prometheus": "prometheus-client"}


@dataclass(frozen=True, slots=True)
class Additions:
    """What `--with` and `--without` name, and what a configuration needs.

    `wanted`: groups, requirements such as `my-callback==1.2`, and paths of wheels. `dropped`: names of additions of
    the release in use. `needed`: groups.
    """

    wanted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """The lock of the release in use, and the wheels that were given to it as files, by their names.

    `python`: the version of its Python, empty if it is unknown. `engine`: its query engine of Prisma, if it has one.
    """

    lock: str = field(default="", repr=False)
    wheels: Mapping[str, Path] = field(default_factory=dict)
    python: str = ""
    engine: Path | None = None

    @property
    def is_for_this_python(self) -> bool:
        """Whether packages that were resolved for it fit the Python of this process."""
        return not self.python or self.python.startswith("{}.{}.".format(*sys.version_info))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(split_lock(self.lock)[1])


def addition_name(addition: str) -> str:
    """Return the name of a group or of a package, canonical, of an addition.

    Raises:
        UsageError: it is neither a name, a requirement nor the name of a wheel.
    """
    return _package_of(addition)[0]


def choose_additions(kept: Sequence[str], additions: Additions) -> tuple[str, ...]:
    """Return the additions of the next release: those that are kept, and the new ones.

    Raises:
        UsageError: an addition is not a name, a requirement or a wheel; one that is dropped is not there, or is
            needed.
    """
    # As a path, since a name alone is the wheel of the release.
    wanted = [f"./{each}" if each.endswith(_WHEEL) and Path(each).name == each else each for each in additions.wanted]
    known = {addition_name(each): each for each in kept if each not in _FORMER_GROUPS}
    for each in map(addition_name, additions.dropped):
        if each in _FORMER_GROUPS and each in kept:
            continue
        if each not in known:
            has = ", ".join(sorted(kept)) or "none"
            raise UsageError(f"--without {each}: the release has no such addition", f"Its additions: {has}.")
        if each in additions.needed:
            raise UsageError(f"--without {each}: the configuration needs it", "Remove its use there first.")
        del known[each]
    for each in without_former(*additions.needed, *wanted):
        known[addition_name(each)] = each
    return tuple(known.values())


def without_former(*additions: str) -> tuple[str, ...]:
    """Return these additions without the groups of earlier releases whose package every release has now."""
    return tuple(each for each in additions if each not in _FORMER_GROUPS)


def extend(
    source: Source,
    additions: Sequence[str],
    kept: Kept = Kept(),
    *,
    target: Target | None = None,
    engine: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Source:
    """Return a source with these additions in place of those that its lock has.

    Args:
        source: what ships: this package and its lock.
        additions: as `choose_additions` returns them.
        kept: sections that are taken over if they fit.
        target: the Python and machine that packages are resolved for; None for those of this process.
        engine: Prisma's query engine, if the user gave it.
        say: called with each line of progress.

    Raises:
        InputError: the source has no such group.
        MissingError: a wheel doesn't exist.
        InstallerError: a package can't be found, or conflicts with the others.
    """
    base = split_lock(source.lock)[0]
    shipped = split_lock(source.groups)[1]
    kept_base, kept_sections = split_lock(kept.lock)
    reusable = kept_sections if kept_base == base and kept.is_for_this_python and target is None else {}
    # Packages of the user's own are recorded with their version, so that a group that is gone is not taken for one.
    groups = {
        *group_names(),
        *shipped,
        *(each for each in kept.names if "==" not in each and not each.endswith(_WHEEL)),
    }
    sections: dict[str, str] = {}
    wheels: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="litellmctl-") as scratch:
        resolver = _Resolver(source, Path(scratch), target, say)
        # Groups first: the packages of the user's own must fit them.
        for each in sorted(without_former(*additions), key=lambda each: (each not in groups, addition_name(each))):
            present = parse_lock(join_lock(base, sections))
            wheel = _wheel(each, kept) if each.endswith(_WHEEL) else None
            wheels += [] if wheel is None else [wheel]
            name = each if wheel is None else wheel.name
            if name in shipped:
                sections[name] = shipped[name]
            elif name in reusable and _fits(reusable[name], present, wheel):
                sections[name] = reusable[name]
            else:
                requirements = _requirements(each, source) if each in groups else [_package_of(each)[1]]
                pins = resolver.resolve(name, requirements, present, wheel)
                name = name if wheel or each in groups else _pinned(each, pins)
                known = {(pin.name, pin.version) for pin in present}
                sections[name] = render_lock(pin for pin in pins if (pin.name, pin.version) not in known)
    machine = target.machine if target else platform.machine()
    kept_engine = kept.engine if machine == platform.machine() else None
    lock = with_engine(join_lock(base, sections), machine, engine, kept.lock, kept_engine)
    return replace(source, lock=lock, wheels=tuple(wheels), engine=engine or kept_engine)


def list_packages(lock: str, additions: Iterable[str]) -> frozenset[str]:
    """Return the canonical names of the packages that the base of a lock and these additions have."""
    base, sections = split_lock(lock)
    known = {**split_lock(read_groups())[1], **sections}
    found = {*locked_names(base), *map(addition_name, additions)}
    return frozenset(found.union(*(locked_names(known.get(each, "")) for each in additions)))


def require_additions(path: Path, lock: str, additions: Sequence[str], dropped: Iterable[str] = ()) -> None:
    """Check that the lock of a bundle has these additions, and none that is dropped.

    Raises:
        InputError: it lacks one.
        UsageError: it has one that is dropped.
    """
    has = {addition_name(each) for each in split_lock(lock)[1]}
    if unwanted := [each for each in dropped if addition_name(each) in has]:
        raise UsageError(
            f"--without {unwanted[0]}: {path} has it, and a bundle is installed as it is",
            "Make a bundle without it on a host whose release does not have it: litellmctl bundle",
        )
    packages = locked_names(lock)
    has |= {name for name, package in _FORMER_GROUPS.items() if package in packages}
    lacking = [each for each in additions if addition_name(each) not in has]
    if lacking:
        options = " ".join(f"--with {each}" for each in lacking)
        raise InputError(
            f"{path} does not have {', '.join(lacking)}",
            f"Make a bundle that has it, where there is a package index: litellmctl bundle {options}",
        )


def _package_of(addition: str) -> tuple[str, str]:
    """The canonical name and the requirement of an addition."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if addition.endswith(_WHEEL):
        try:
            name, version, *_ = parse_wheel_filename(Path(addition).name)
        except InvalidWheelFilename as error:
            raise UsageError(
                f"{addition} is not the name of a wheel: {error}", "Keep the name that it was built with."
            ) from None
        return name, f"{name}=={version}"
    found = _requirement(addition)
    return canonical(found.name), str(found)


def _requirement(text: str) -> Requirement:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        found = Requirement(text)
    except InvalidRequirement:
        found = None
    if found is None or found.url or found.marker:
        groups = ", ".join(group_names())
        raise UsageError(
            f"{text} is neither a group, nor a package such as my-callback==1.2, nor the path of a wheel",
            f"The groups are: {groups}.",
        )
    return found


def _wheel(addition: str, kept: Kept) -> Path:
    """The file of a wheel: the given one, or by its name alone the one that the release in use keeps."""
    path = Path(addition) if "/" in addition else kept.wheels.get(addition, Path(addition))
    if not path.is_file():
        raise MissingError(f"{addition} doesn't exist", "Give the path of a wheel: --with ./NAME.whl")
    require_trusted(path)
    return path.absolute()


def _fits(entries: str, present: Iterable[Pin], wheel: Path | None) -> bool:
    """Whether entries have no other version of a package than those that are present, and the hash of the wheel."""
    versions: dict[str, set[str]] = {}
    for pin in present:
        versions.setdefault(pin.name, set()).add(pin.version)
    pins = parse_lock(entries)
    same = all(pin.version in versions.get(pin.name, {pin.version}) for pin in pins)
    return same and (wheel is None or any(file_entry(wheel)[0] in pin.hashes for pin in pins))


@dataclass(frozen=True, slots=True)
class _Resolver:
    source: Source
    scratch: Path
    target: Target | None
    say: Callable[[str], None]

    def resolve(
        self, name: str, requirements: list[str], present: Sequence[Pin], wheel: Path | None
    ) -> tuple[Pin, ...]:
        """Return an entry for each package that the requirements need, also for those that are present."""
        self.say(Step(f"resolving {name}"))
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        constraints = folder / "constraints.txt"
        lines = (f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "") for pin in present)
        constraints.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        given = None if wheel is None else folder / "given"
        if wheel is not None and given is not None:
            given.mkdir()
            shutil.copy(wheel, given)
        options = ("--constraint", str(constraints), *links_to(given))
        try:
            pins = (self._by_uv if find_uv() else self._by_pip)(folder, requirements, options)
        except CommandError as error:
            close = get_close_matches(name, group_names(), n=1, cutoff=0.8)
            guess = f"Did you mean the group {close[0]}? " if close else ""
            hint = f"{guess}The other packages of the release keep their versions. {error.hint}"
            raise ProgramError(f"{name} can't be added to the release: {find_cause(error)}", hint) from error
        # An index may have another file of the same version.
        digest = () if wheel is None else (file_entry(wheel)[0],)
        return tuple(
            replace(pin, hashes=digest) if digest and pin.name == addition_name(name) else pin for pin in pins
        )

    def _by_uv(self, folder: Path, requirements: list[str], options: tuple[str, ...]) -> tuple[Pin, ...]:
        wanted, lock = folder / "requirements.in", folder / "additions.lock"
        wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        platform: tuple[str, ...] = ()
        if self.target is not None:
            machine = f"{self.target.machine}-manylinux_2_34"
            platform = ("--python-version", self.target.python, "--python-platform", machine)
        argv = (
            *(*uv_argv(find_uv() or "uv"), "pip", "compile", "--quiet", "--no-build", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--python", str(self.source.python), *platform, *options),
            *("--output-file", str(lock)),
        )
        run((*argv, str(wanted)), environment=index_environment(), timeout=600, hint=INDEX_HINT)
        return parse_lock(lock.read_text(encoding="utf-8"))

    def _by_pip(self, folder: Path, requirements: list[str], options: tuple[str, ...]) -> tuple[Pin, ...]:
        if self.target is not None:
            raise InstallerError(
                f"pip can't resolve packages for Python {self.target.python} on {self.target.machine}",
                "Install uv, or make the bundle on such a machine.",
            )
        report = folder / "report.json"
        argv = (
            *(*pip_argv(self.source.python, self.scratch), "install", "--quiet", "--dry-run", "--ignore-installed"),
            *("--only-binary", ":all:", "--report", str(report), *options, *requirements),
        )
        run(argv, environment=index_environment(), timeout=900, hint=INDEX_HINT)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
        pins = (
            Pin(canonical(item["metadata"]["name"]), item["metadata"]["version"], (wheel_hash(item),))
            for item in found
        )
        return tuple(sorted(pins, key=lambda pin: pin.name))


def _requirements(group: str, source: Source) -> list[str]:
    """The requirements of a group in setup.cfg, for a lock that the shipped group doesn't fit."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    texts = []
    for item in found:
        applies = {extra: item.marker is None or item.marker.evaluate({"extra": extra}) for extra in (group, "")}
        if applies[group] and not applies[""]:
            item.marker = None
            texts.append(str(item))
    if not texts:
        raise InputError(
            f"litellm-systemd {source.version} has no group {group}",
            f"Remove it from the release first: sudo litellmctl install --without {group}",
        )
    return texts


def _pinned(addition: str, pins: Iterable[Pin]) -> str:
    """A requirement with the version that was found for it."""
    found = _requirement(addition)
    extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
    return next(f"{pin.name}{extras}=={pin.version}" for pin in pins if pin.name == canonical(found.name))
