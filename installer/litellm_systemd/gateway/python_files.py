"""The Python files that a configuration names, such as `callbacks: my_hooks.handler`, and those that they import.

LiteLLM looks for my_hooks.py next to the configuration, then among the importable modules (`get_instance_fn` in
litellm/proxy/types_utils/utils.py). The service makes the folder of the configuration importable too. Nothing here
runs or imports such a file.
"""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from litellm_systemd.contract import CONFIG_FILE
from litellm_systemd.gateway.config_types import (
    REFERENCE,
    GatewayConfig,
    KeyPath,
    LintFinding,
    Place,
    PythonFile,
    Severity,
    mappings,
)
from litellm_systemd.gateway.python_output import find_debugging, find_keys

#: This package, which is not in site-packages when it runs from a checkout.
_OWN = Path(__file__).parents[1]
#: Settings of general_settings whose value LiteLLM loads.
_CUSTOM = (
    *("custom_auth", "custom_key_generate", "custom_key_policy", "custom_key_update", "custom_sso"),
    *("custom_team_metadata_validate", "custom_ui_sso_sign_in_handler"),
)
#: All settings whose value LiteLLM loads, except for lists.
_SETTINGS: tuple[KeyPath, ...] = (
    *(("general_settings", name) for name in _CUSTOM),
    ("general_settings", "key_management_settings", "custom_secret_manager"),
    ("general_settings", "litellm_jwtauth", "custom_validate"),
    ("litellm_settings", "post_call_rules"),
)
#: Lists of callbacks. A name without a dot is one of LiteLLM's own callbacks. LiteLLM loads no file for those of
#: service_callback and input_callback.
LOADED_CALLBACKS = ("callbacks", "success_callback", "failure_callback", "audit_log_callbacks")
#: Modules of the user's own in a bucket. LiteLLM downloads them at each start.
_REMOTE = ("s3://", "gcs://")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

#: Reads a file, if it exists: its text, and how messages name it.
Read = Callable[[Path], tuple[str, str] | None]


def python_folders(root: Path) -> tuple[Path, ...]:
    """The folders in which a configuration's Python files are found, the first first; `root` is the file itself.

    They are the folder of the file and, on a host, the one of the link to the active configuration.
    """
    folder = root.parent
    if root.parts[-3:] == Path(CONFIG_FILE).parts[-3:]:
        return (folder, folder / "configs")  # an editor replaced the link with a copy
    return (folder, folder.parent) if folder.name == "configs" else (folder,)


def find_references(data: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    """The settings for which LiteLLM loads an object of a Python module: key path, and MODULE.NAME as written.

    Without those that refer to a variable.
    """
    for path, value in _find_values(data):
        if isinstance(value, str) and not value.startswith((*_REMOTE, REFERENCE)):
            yield path, value


def _find_values(data: Mapping[str, object]) -> Iterator[tuple[KeyPath, object]]:
    litellm = _section(data, "litellm_settings")
    for name in LOADED_CALLBACKS:
        yield from ((path, value) for path, value in _entries(litellm, name) if "." in str(value))
    for index, item in enumerate(mappings(litellm.get("custom_provider_map"))):
        yield ("litellm_settings", "custom_provider_map", index, "custom_handler"), item.get("custom_handler")
    for path in _SETTINGS:
        yield path, _get(data, path)
    for index, item in enumerate(mappings(data.get("guardrails"))):
        path = ("guardrails", index, "litellm_params", "guardrail")
        value = _get(item, path[2:])
        yield path, value if "." in str(value) else None
    for index, item in enumerate(mappings(data.get("mcp_tools"))):
        yield ("mcp_tools", index, "handler"), item.get("handler")
    yield from _plugins(data)


def _plugins(data: Mapping[str, object]) -> Iterator[tuple[KeyPath, object]]:
    yield from _items(data, ("router_settings", "plugins"))
    for index, item in enumerate(mappings(data.get("model_list"))):
        path: KeyPath = ("litellm_params", "complexity_router_config")
        for key, value in _items(item, (*path, "plugins")):
            yield ("model_list", index, *key), value
        yield ("model_list", index, *path, "classifier_plugin"), _get(item, (*path, "classifier_plugin"))


def _section(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _entries(litellm: Mapping[str, object], name: str) -> Iterator[tuple[KeyPath, object]]:
    value = litellm.get(name)
    if isinstance(value, list):
        yield from ((("litellm_settings", name, index), each) for index, each in enumerate(value))
    elif name == "callbacks":  # the others must be lists
        yield ("litellm_settings", name), value


def _get(data: object, path: KeyPath) -> object:
    for step in path:
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _items(data: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    value = _get(data, path)
    yield from (((*path, index), each) for index, each in enumerate(value if isinstance(value, list) else ()))


def find_python_files(data: Mapping[str, object], folders: tuple[Path, ...], read: Read) -> tuple[PythonFile, ...]:
    """The files that a configuration names and that exist, with the local files that they import, and so on."""
    found: dict[Path, PythonFile] = {}
    references = [*(value for _, value in find_references(data)), *_find_candidates(data)]
    pending = [path for value in references for path in _named_files(value, folders, read)]
    while pending:
        path = pending.pop(0)
        text = None if path in found else read(path)
        if text is not None:
            found[path] = PythonFile(path, text[1], text[0])
            folder = next(each for each in folders if path.is_relative_to(each))
            pending += _imported_files(found[path], folder, folders, read)
    return tuple(found.values())


def _find_candidates(data: Mapping[str, object]) -> Iterator[str]:
    """Values that may be MODULE.NAME: custom_ settings that a later LiteLLM adds, and targets of endpoints.

    LiteLLM tries to import a target, and takes it for a URL if that fails.
    """
    general = _section(data, "general_settings")
    values = [value for key, value in general.items() if str(key).startswith("custom_")]
    values += [item.get("target") for item in mappings(general.get("pass_through_endpoints"))]
    yield from (value for value in values if isinstance(value, str))


def _named_files(reference: str, folders: tuple[Path, ...], read: Read) -> list[Path]:
    """The file of MODULE.NAME, and the packages that it is in; empty if there is none."""
    module = reference.rpartition(".")[0]
    for folder in folders if _DOTTED.fullmatch(reference) else ():
        files = [path for path in _candidates(folder, module) if read(path) is not None]
        if set(files) & {*_own_files(folder, module)}:
            return files
    return []


def _own_files(folder: Path, module: str) -> tuple[Path, Path]:
    """A module as a file, and as a package."""
    file = folder / module_file(module)
    return file, file.with_suffix("") / "__init__.py"


def module_file(module: str) -> str:
    """The file of a module, relative to the folder that contains it: hooks.audit is hooks/audit.py."""
    return f"{module.replace('.', '/')}.py"


def _imported_files(file: PythonFile, folder: Path, folders: tuple[Path, ...], read: Read) -> Iterator[Path]:
    """The local files that a file imports, whether they are modules or packages."""
    for level, name in _imports(file):
        if level:
            # A relative import starts at the folder of the file, and each further dot is one folder up.
            starts = [Path(os.path.abspath(file.path.joinpath(*[".."] * level)))]  # noqa: PTH100 - links are not followed
            starts = [start for start in starts if start.is_relative_to(folder)]
        else:
            starts = [] if name.partition(".")[0] in sys.stdlib_module_names else [*folders]
        for start in starts:
            if files := [each for each in _candidates(start, name) if read(each) is not None]:
                yield from files
                break


def _candidates(start: Path, name: str) -> Iterator[Path]:
    steps = name.split(".") if name else []
    for length in range(1, len(steps) + 1):
        base = start.joinpath(*steps[:length])
        yield from (base.parent / f"{base.name}.py", base / "__init__.py")
    if not steps:
        yield start / "__init__.py"


def _imports(file: PythonFile) -> Iterator[tuple[int, str]]:
    """Each imported module with the number of its leading dots; with names that may be modules themselves."""
    tree = _parse(file)
    for node in () if isinstance(tree, SyntaxError) else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (
                (node.level, f"{module}.{alias.name}".lstrip(".")) for alias in node.names if alias.name != "*"
            )
            yield node.level, module


def _parse(file: PythonFile) -> ast.Module | SyntaxError:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # As bytes, so that a coding cookie and a byte order mark count.
            return ast.parse(file.text.encode())
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL; nested too deeply
        return SyntaxError(str(error) or "nested too deeply")


def python_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Python files that are missing, that are no Python, or that do not define the name."""
    del environ
    trees = {file.path: _parse(file) for file in config.python_files}
    for file in config.python_files:
        tree = trees[file.path]
        if isinstance(tree, SyntaxError):
            # Without the key: the position in the file is what helps.
            place = Place(file.shown, tree.lineno, tree.offset)
            message = f"this isn't Python: {tree.msg}"
            yield LintFinding(Severity.ERROR, "bad-python-file", place, message, "Correct the file.")
        else:
            yield from _missing_imports(config, file, tree)
            yield from _written(file, tree)
    missing: dict[str, list[KeyPath]] = {}
    for path, value in find_references(config.document):
        module = value.rpartition(".")[0]
        files = (file for folder in config.folders for file in _own_files(folder, module))
        found = next((trees[file] for file in files if file in trees), None)
        if found is not None or not _DOTTED.fullmatch(value):
            yield from _reference(config, path, value, found)
        elif config.folders and not is_importable(module):
            missing.setdefault(module, []).append(path)
    for module, paths in missing.items():
        yield _missing(config, module, paths)


def _reference(
    config: GatewayConfig, path: KeyPath, value: str, tree: ast.Module | SyntaxError | None
) -> Iterator[LintFinding]:
    module, _, name = value.rpartition(".")
    if not _DOTTED.fullmatch(value):
        message = f"is {value}, and not the name of something in a Python file"
        remedy = "Write it as MODULE.NAME: my_hooks.handler is handler in my_hooks.py."
        yield config.error("bad-python-file", path, message, remedy)
        return
    names = _defined(tree) if isinstance(tree, ast.Module) else None
    if isinstance(tree, ast.Module) and names is not None and name not in names:
        close = difflib.get_close_matches(name, sorted(names), n=1)
        guess = f": did you mean {close[0]}?" if close else ""
        guess = guess if tree.body else ": it has no code"
        message = f"is {value}, but {module_file(module)} does not define {name}{guess}"
        remedy = f"Write it as {module}.{close[0]}." if close else f"Define {name} at the top level of the file."
        yield config.error("bad-python-file", path, message, remedy)


def _missing_imports(config: GatewayConfig, file: PythonFile, tree: ast.Module) -> Iterator[LintFinding]:
    """Packages that a file imports when it is loaded, and that are not installed."""
    local = {path.relative_to(folder).parts[0] for path, folder in _local_files(config)}
    for node in tree.body:  # an import in a function, or in a `try`, may be optional
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in dict.fromkeys(each.partition(".")[0] for each in names):
            if name not in sys.stdlib_module_names and not {name, f"{name}.py"} & local and not is_importable(name):
                place = Place(file.shown, node.lineno, node.col_offset + 1)
                message = f"this imports {name}, which is neither next to the configuration nor in this release"
                package = name.replace("_", "-")
                remedy = (
                    f"Put {name}.py next to {Path(config.source).name}. If it is a package, add the one that contains"
                    f" it: sudo litellmctl install --with {package}"
                )
                yield LintFinding(Severity.WARNING, "missing-import", place, message, remedy)


def _written(file: PythonFile, tree: ast.Module) -> Iterator[LintFinding]:
    """Lines that write keys or prompts to the journal."""
    kinds = (
        (find_keys(tree), "this writes keys of the environment to the journal", "Remove it, and replace the keys."),
        (find_debugging(tree), "this writes prompts to the journal: LiteLLM's debug log", "Remove it after a test."),
    )
    for lines, message, remedy in kinds:
        for line in sorted(set(lines)):
            yield LintFinding(Severity.WARNING, "debug-log", Place(file.shown, line, 1), message, remedy)


def _local_files(config: GatewayConfig) -> Iterator[tuple[Path, Path]]:
    """Each Python file with the folder in which it is found."""
    for file in config.python_files:
        yield file.path, next(folder for folder in config.folders if file.path.is_relative_to(folder))


def _missing(config: GatewayConfig, module: str, paths: list[KeyPath]) -> LintFinding:
    file, source = module_file(module), Path(config.source).name
    more = f" ({len(paths)} keys do)" if len(paths) > 1 else ""
    message = f"names {module}{more}, but there is no {file} next to {source}, where LiteLLM looks for it"
    remedy = f"Put {file} next to {source}: an install with -c takes it along."
    return config.error("missing-python-file", paths[0], message, remedy)


def is_importable(module: str) -> bool:
    """Whether a module is installed with LiteLLM; True too if LiteLLM is not installed with this package."""
    # What is not installed, such as the current folder, the service does not see.
    folders = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
    if importlib.machinery.PathFinder.find_spec("litellm", folders) is None:
        return True
    names, prefix = module.split("."), ""
    if names[0] == _OWN.name:
        folders, prefix = [str(_OWN)], f"{names.pop(0)}."
    for name in names:
        # Unlike importlib.util.find_spec() this imports no package on the way.
        spec = importlib.machinery.PathFinder.find_spec(prefix + name, folders)
        if spec is None:
            return False
        folders, prefix = list(spec.submodule_search_locations or []), f"{prefix}{name}."
    return True


def _defined(tree: ast.Module) -> frozenset[str] | None:
    """The names that a module defines at its top level; None if it may define others, as with `import *`."""
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue  # what is inside is not at the top level
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        pending += ast.iter_child_nodes(node)
    is_open = names & {"*", "__getattr__"} or any(_sets_names(node) for node in ast.walk(tree))
    return None if is_open else frozenset(names)


def _sets_names(node: ast.AST) -> bool:
    # global NAME in a function, or globals()[NAME] = …
    calls = ("globals", "exec", "setattr")
    return isinstance(node, ast.Global) or (isinstance(node, ast.Name) and node.id in calls)
