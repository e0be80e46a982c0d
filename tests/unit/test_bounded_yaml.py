"""A YAML file of a few lines that stands for more values than any memory holds is an error, for every reader."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from litellm_systemd.bounded_yaml import MAX_DEPTH, TooLarge, check_size, load_yaml
from litellm_systemd.cli.program import run_command
from litellm_systemd.client_setup.merge import Format, merge
from litellm_systemd.env.secrets import Scrubber, mask_yaml
from litellm_systemd.errors import InputError

MODEL = "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: none, mock_response: b}}]\n"


def bomb(form: str, levels: int = 10) -> str:
    """Ten aliases at each of ten levels."""
    forms: dict[str, Callable[[str], str]] = {
        "list": lambda name: "[" + ", ".join([f"*{name}"] * 10) + "]",
        "mapping": lambda name: "{" + ", ".join(f"k{number}: *{name}" for number in range(10)) + "}",
        "merge": lambda name: "{<<: [" + ", ".join([f"*{name}"] * 10) + "]}",
        "keys": lambda name: "{" + ", ".join(f"? [*{name}] : 1" for _ in range(10)) + "}",
    }
    aliases = forms[form]
    lines = [f"a{level}: &a{level} {aliases(f'a{level - 1}')}" for level in range(1, levels)]
    return "\n".join(("a0: &a0 {b: 1, c: 2}", *lines)) + "\n"


FORMS = ("list", "mapping", "merge", "keys")
#: Each line is one level deeper than the line before, through an alias.
LADDER = "&a0 [x]\n" + "".join(f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 1000))
DEEP = ("[" * 100_000, "{a: " * 50_000, "[" * 200 + "]" * 200, LADDER)
HOSTILE = (*(bomb(form) for form in FORMS), *(f"a: {text}\n" for text in DEEP))
IDS = (*FORMS, "deep list", "deep mapping", "closed list", "ladder")


@pytest.fixture
def at_once() -> Callable[[], None]:
    """Asserts that no more than a second of processor time has passed."""
    began = time.process_time()

    def check() -> None:
        assert time.process_time() - began < 1

    return check


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_readers(text: str, at_once: Callable[[], None]) -> None:
    """The settings of a client, and the search for secrets, end within a second."""
    with pytest.raises(InputError, match=r"x\.yml:\d+: .*(has more than|nested more than)"):
        merge(text, Format.YAML, {"b": 1}, "x.yml")
    assert mask_yaml(f"{text}key: sk-0123456789abcdef0123\n").count("sk-0123456789abcdef0123") == 0
    Scrubber().learn_yaml(text)
    at_once()


@pytest.mark.parametrize("form", [Format.JSON, Format.TOML])
@pytest.mark.parametrize("text", ['{"a": ' + "[" * 100_000, "a = " + "[" * 100_000], ids=["json", "toml"])
def test_other_formats(form: Format, text: str) -> None:
    """Deep nesting in JSON or TOML is an error in words too."""
    with pytest.raises(InputError, match=r"x(:1)?: not "):
        merge(text, form, {"b": 1}, "x")


@pytest.mark.parametrize(
    "verb", [("config", "check"), ("config", "show"), ("models", "--offline", "-c"), ("iam-policy", "-c")]
)
@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_commands(
    verb: tuple[str, ...],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at_once: Callable[[], None],
) -> None:
    """Each verb that reads a configuration names the line of it, also in an included file, within a second."""
    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text(MODEL + text, encoding="utf-8")
    Path("with.yml").write_text(f"include: [more.yml]\n{MODEL}", encoding="utf-8")
    Path("more.yml").write_text(text, encoding="utf-8")
    for name, bad in (("own.yml", "own.yml"), ("with.yml", "more.yml")):
        assert run_command([*verb, f"./{name}"]) == 78
        said = capsys.readouterr()
        assert f"{bad}:" in said.out + said.err
        assert "values, aliases included" in said.out + said.err or "levels deep" in said.out + said.err
    at_once()


def test_runtime_refuses_before_it_loads_litellm(tmp_path: Path) -> None:
    """The service exits with 78 at once, and LiteLLM never reads the file."""
    path = tmp_path / "own.yml"
    path.write_text(MODEL + bomb("list"), encoding="utf-8")
    code = (
        "import sys; from litellm_systemd.runtime.__main__ import main\n"
        "code = main(sys.argv[1:])\nprint(code, 'litellm' in sys.modules)"
    )
    done = subprocess.run(
        (sys.executable, "-c", code, "--config", str(path)), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "78 False\n", done.stderr
    assert "own.yml:8" in done.stderr


def test_ordinary_aliases() -> None:
    """Anchors, aliases and merge keys have the values that they have for PyYAML."""
    text = "a: &a {b: 1, c: [&d x, *d]}\ne: {<<: *a, b: 2}\nf: [*a, *a]\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml(text)["e"] == {"b": 2, "c": ["x", "x"]}
    assert load_yaml("") is None
    check_size("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))


def test_place_of_what_is_refused() -> None:
    """The error has the line and the key at the top."""
    with pytest.raises(TooLarge) as refused:
        check_size("first: 1\nsecond: {a: &a {b: [c, *a]}}\n")
    mark = refused.value.problem_mark
    assert mark is not None
    assert (refused.value.problem, refused.value.key, mark.line) == ("contains itself", "second", 1)
