"""`python -m tests.picture`: create docs/verify.png, the page of `verify --html` for docs/verify.md.

It wants the extra `bench`, which brings Pillow, and a Chromium. The gateway is the stub of the tests, of which one
API is throttled.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from litellm_systemd.cli import run_command
from tests.integration.stub_gateway import KEY, Handler, stub

_PICTURE = Path(__file__).parents[1] / "docs" / "verify.png"
#: Pixels: the width of a README on GitHub, and the height that fits on a screen.
_SIZE = {"width": 880, "height": 760}
_COLOURS = 96


def _throttle(handler: Handler) -> None:
    handler.reply(429, {"error": {"message": "ThrottlingException: Too many requests, please wait before trying."}})


def main() -> int:
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        sys.exit("there is no Chromium: apt-get install chromium-headless-shell")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        with stub() as server, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            server.faults = {"/v1/responses": _throttle}
            run_command(["verify", "--base-url", server.url, "--api-key", KEY, "--html", str(page)])
        picture = _photograph(program, page)
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(_COLOURS).save(_PICTURE, optimize=True)
    return 0


def _photograph(program: str, page: Path) -> bytes:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport=_SIZE, device_scale_factor=2)  # type: ignore[arg-type]
        tab.goto(page.as_uri())
        found = tab.screenshot()
        browser.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
