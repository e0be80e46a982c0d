"""What a Python file of the user's own writes to the journal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from litellm_systemd.gateway.config import FileText, lint, read_config
from litellm_systemd.gateway.python_output import find_debugging, find_keys


@pytest.mark.parametrize(
    "line",
    [
        "print(os.environ)",
        "print('environment:', dict(os.environ), flush=True)",
        "print(f'{os.environ}')",
        "logging.getLogger(__name__).info('%s', json.dumps(dict(environ)))",
        "pprint.pprint(os.environ.copy())",
        "print('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))",
        "for k, v in os.environ.items(): print(k, v)",
        "for k in sorted(os.environ.items()): pass\nfor k, v in environ.items(): log.warning(f'{k}={v}')",
        "sys.stderr.write(str(os.environ))",
        "print('key', os.environ['LITELLM_MASTER_KEY'])",
        "print(os.getenv('OPENAI_API_KEY'), os.environ.get('PORT'))",
    ],
)
def test_written_keys(line: str) -> None:
    """A call that writes the environment, or a variable with a key, is found in any usual form."""
    assert list(find_keys(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "print(os.environ['PORT'], os.environ.get('AWS_REGION_NAME'), os.getenv('HOME'))",
        "print(len(os.environ), 'X' in os.environ, sorted(os.environ))",
        "print(os.environ['LITELLM_MASTER_KEY'][:4], bool(os.getenv('OPENAI_API_KEY')))",
        "client = Client(env=os.environ, key=os.environ['OPENAI_API_KEY'])",
        "subprocess.run(argv, env={**os.environ, 'A': '1'})",
        "for k in os.environ: known.add(k)",
        "print(self.environment)",
    ],
)
def test_harmless_use_of_the_environment(line: str) -> None:
    """Other uses of the environment are not reported."""
    assert not list(find_keys(ast.parse(line)))


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("litellm._turn_on_debug()", 1),
        ("litellm.set_verbose = True", 1),
        ("verbose_logger.setLevel(logging.DEBUG)", 1),
        ("os.environ['LITELLM_LOG'] = 'DEBUG'", 1),
        ("litellm.set_verbose = False", 0),
        ("os.environ['LITELLM_LOG'] = 'INFO'", 0),
        ("logging.getLogger('mine').setLevel(logging.DEBUG)", 0),
        ("verbose_logger.setLevel(logging.INFO)", 0),
    ],
)
def test_debug_log(line: str, number: int) -> None:
    """A line that turns on LiteLLM's debug log is found."""
    assert len(list(find_debugging(ast.parse(line)))) == number


def test_place_of_the_line() -> None:
    """The warning names the file and the line."""
    files = {
        Path("/c/f.yml"): FileText(
            "model_list: [{model_name: a, litellm_params: {model: openai/a, mock_response: hi}}]\n"
            "litellm_settings: {callbacks: [mine.handler]}\n",
            "f.yml",
        ),
        Path("/c/mine.py"): FileText("import os\nhandler = 1\nprint(os.environ)\n", "mine.py"),
    }
    found = lint(read_config(Path("/c/f.yml"), files.get), {"LITELLM_MASTER_KEY": "sk-good"})
    assert [str(each) for each in found if each.code == "debug-log"] == [
        "mine.py:3:1: this writes keys of the environment to the journal"
    ]
