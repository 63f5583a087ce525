"""Run notebooks in a real JupyterLab in Chromium and move their sliders: `make browser NOTEBOOKS="01 04"`.

Needs node, npm and chromium on the PATH (or CHROMIUM); playwright-core is installed to build/browser/ by npm. Copies of the
notebooks are run, so the stored ones stay as they are. Screenshots go to build/browser/. Not part of `make test`.
"""
from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor

from llama2_lib.course import ROOT
from llama2_lib.course.notebook_files import find

FOLDER = ROOT / "build" / "browser"


def install_playwright() -> None:
    """playwright-core beside the script, without a browser of its own."""
    if (FOLDER / "node_modules" / "playwright-core").exists():
        return
    if shutil.which("npm") is None:
        sys.exit("the browser check needs node and npm on the PATH")
    subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", "playwright-core"], cwd=FOLDER, check=True,
                   env={**os.environ, "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"})


def start_lab(port: int, token: str, notebooks: Path) -> subprocess.Popen:
    """JupyterLab on 127.0.0.1 with the course's settings; returns when it answers. Exits if it does not within a minute."""
    settings = Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings"      # where `make lab` puts them too
    settings.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "lab_settings" / "overrides.json", settings)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with open(FOLDER / "lab.log", "wb") as log:
        server = subprocess.Popen(command, cwd=notebooks, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1)
            return server
        except OSError:
            time.sleep(0.5)
    server.terminate()
    sys.exit(f"JupyterLab did not start; see {FOLDER / 'lab.log'}")


def cleared(path: Path) -> nbformat.NotebookNode:
    """The notebook without outputs and counts: a number in a prompt then means that its cell has run."""
    nb, _ = ClearOutputPreprocessor(enabled=True).preprocess(nbformat.read(path, as_version=4), {})
    return nb


def main(paths: list[Path]) -> int:
    copies = FOLDER / "notebooks"
    copies.mkdir(parents=True, exist_ok=True)
    install_playwright()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, failed = secrets.token_hex(16), []
    server = start_lab(port, token, copies)
    try:
        for path in paths or find():
            (copies / path.name).write_text(nbformat.writes(cleared(path)), encoding="utf-8")
            print(path.stem, flush=True)
            command = ["node", str(ROOT / "tests" / "browser" / "run_notebook.js"), f"http://127.0.0.1:{port}", token,
                       path.name, str(FOLDER / f"{path.stem}.png"), os.environ.get("BROWSER_SECONDS", "600")]
            done = subprocess.run(command, env={**os.environ, "NODE_PATH": str(FOLDER / "node_modules")}, check=False)
            failed += [path.stem] * bool(done.returncode)
    finally:
        server.terminate()
        server.wait(timeout=30)
    print("failed: " + ", ".join(failed) if failed else f"all ran; screenshots are in {FOLDER}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main([Path(p) for p in sys.argv[1:]]))
