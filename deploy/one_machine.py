"""The app for a team on one machine: the model, two web processes, nginx with TLS before them.

    python deploy/one_machine.py --folder DIR [--port 8443] [--path /lens]

What containers do elsewhere, without them. A process that ends is started again. Everything that
is written goes into the folder: certificate, configuration, logs, runs. Settings of the app are
taken from the environment as ever.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("nginx.conf.template")
SECRETS = ROOT / ".streamlit" / "secrets.toml"
HERE = "127.0.0.1"
PATIENCE = 300.0  # seconds that a process may take to be ready
GRACE = 15.0  # seconds that a process may take to end
# Modules that Debian's nginx looks for places for, though nothing here uses them.
PLACES = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
WHOLE = """daemon off;
{user}pid {folder}/nginx.pid;
error_log {folder}/log/nginx.txt crit;
worker_processes 2;
events {{ worker_connections 2048; }}
http {{
{places}
    include {folder}/lens.conf;
}}
"""


@dataclass
class Part:
    """A process that is kept alive.

    Attributes:
        ready: address that answers 200 once it takes requests.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    ready: str
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self, folder: Path) -> None:
        with (folder / "log" / f"{self.name}.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def parts(options: argparse.Namespace, nginx: str) -> list[Part]:
    """The processes, in the order in which they start."""
    folder = options.folder
    one, two = web_ports(options)
    environment = {
        "GROK_LENS_LOG": "json",
        "GROK_LENS_RUNS": str(folder / "data" / "runs"),
        "GROK_LENS_NOTES": str(folder / "data" / "notes"),
        **os.environ,
        "GROK_LENS_ACCESS": access(options.listen),
        "STREAMLIT_SERVER_BASE_URL_PATH": options.path.strip("/"),
    }
    found = []
    if options.model:
        address = f"http://{HERE}:{two + 1}"
        environment.setdefault("GROK_LENS_MODEL_TOKEN", secrets.token_hex(32))
        environment["GROK_LENS_MODEL_URL"] = address
        command = [sys.executable, "-m", "grok.serve", "--port", str(two + 1)]
        if os.environ.get("GROK_LENS_CHECKPOINT"):
            command += ["--checkpoint", os.environ["GROK_LENS_CHECKPOINT"]]
        found.append(Part("model", command, environment, f"{address}/readyz"))
    web = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", HERE]
    for number, port in enumerate((one, two), 1):
        command = [*web, "--server.port", str(port)]
        found.append(Part(f"web-{number}", command, environment, f"http://{HERE}:{port}/readyz"))
    command = [nginx, "-c", str(folder / "nginx.conf"), "-e", str(folder / "log" / "nginx.txt")]
    return [*found, Part("nginx", command, dict(os.environ), "")]


def access(listen: str, secrets_file: Path = SECRETS) -> str:
    """Whom the app lets in, where the secrets do not say it: this machine alone, if nothing does.

    Raises:
        SystemExit: others could come, and nothing says who may.
    """
    said = os.environ.get("GROK_LENS_ACCESS", "")
    if said or secrets_file.exists():
        return said
    if listen not in (HERE, "localhost", "::1"):
        raise SystemExit(
            f"--listen {listen}: others reach it there. Say in GROK_LENS_ACCESS who may come in: "
            "signed-in, list or open; see docs/hosting.md."
        )
    return "open"


def web_ports(options: argparse.Namespace) -> tuple[int, int]:
    """Ports of the web processes."""
    return options.first_port, options.first_port + 1


def write_configuration(options: argparse.Namespace, template: str) -> None:
    """nginx's two files in the folder."""
    folder = options.folder
    one, two = web_ports(options)
    values = {
        "LENS_LISTEN": f"{options.listen}:{options.port}",
        "LENS_PATH": "/" + options.path.strip("/"),
        "LENS_CERTIFICATE": str(options.certificate or folder / "tls" / "certificate.pem"),
        "LENS_KEY": str(options.key or folder / "tls" / "key.pem"),
        "LENS_HOST_1": HERE,
        "LENS_PORT_1": str(one),
        "LENS_HOST_2": HERE,
        "LENS_PORT_2": str(two),
        "LENS_LOG": str(folder / "log" / "requests.txt"),
    }
    (folder / "lens.conf").write_text(filled(template, values))
    places = "\n".join(f"    {name}_temp_path {folder}/tmp/{name};" for name in PLACES)
    # nginx's workers are who runs this: they write into the folder.
    user = "user root;\n" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(WHOLE.format(folder=folder, places=places, user=user))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with each ${NAME} replaced; nginx's own $names stay.

    Raises:
        SystemExit: a name of the template has no value.
    """
    for name, value in values.items():
        template = template.replace("${" + name + "}", value)
    # The comment at its head says ${LENS_...}, which is no name.
    left = template.replace("${LENS_...}", "").partition("${")
    if left[1]:
        raise SystemExit(f"{TEMPLATE}: no value for ${{{left[2].partition('}')[0]}}}.")
    return template


def certificate(options: argparse.Namespace) -> None:
    """A certificate that signs itself, for a year, where none is given; browsers will warn."""
    key = options.folder / "tls" / "key.pem"
    if options.certificate or key.exists():
        return
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-days", "365", "-subj", f"/CN={options.name}"]
        + ["-addext", f"subjectAltName=DNS:{options.name},IP:{HERE}"]
        + ["-keyout", str(key), "-out", str(key.with_name("certificate.pem"))],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)


def is_ready(part: Part) -> bool:
    """Whether it answers."""
    if not part.ready:
        return True
    try:
        with urllib.request.urlopen(part.ready, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def keep_alive(folder: Path, running: list[Part], address: str) -> None:
    """Starts all, says where the app is, and starts again what ends; returns at SIGTERM."""

    def end(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    begun, told = time.monotonic(), False
    try:
        while True:
            for part in running:
                if part.process is None or part.process.poll() is not None:
                    if part.process is not None:
                        print(f"{part.name} ended ({part.process.returncode}); again.", flush=True)
                    part.start(folder)
                    _write_pids(folder, running)
            if not told and all(map(is_ready, running)):
                print(f"Ready: {address}", flush=True)
                told = True
            if not told and time.monotonic() - begun > PATIENCE:
                raise SystemExit(f"Not ready after {PATIENCE:.0f} s: see {folder / 'log'}.")
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        _end_all(running)


def _end_all(running: list[Part]) -> None:
    alive = [part.process for part in running if part.process is not None]
    for process in alive:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in alive:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write_pids(folder: Path, running: list[Part]) -> None:
    pids = {part.name: part.process.pid for part in running if part.process is not None}
    partial = folder / "pids.json.partial"
    partial.write_text(json.dumps(pids))
    partial.replace(folder / "pids.json")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--folder", type=Path, required=True, help="where everything is written")
    made.add_argument("--port", type=int, default=8443, help="that browsers come to")
    made.add_argument("--listen", default=HERE, help="address that browsers come to")
    made.add_argument("--path", default="/lens", help="folder of the app in its address")
    made.add_argument("--name", default="localhost", help="host that the certificate is for")
    made.add_argument("--certificate", type=Path, help="of your own, instead of a new one")
    made.add_argument("--key", type=Path, help="of that certificate")
    made.add_argument(
        "--no-model",
        dest="model",
        action="store_false",
        help="start no process for the model: each web process holds the bundled one itself",
    )
    made.add_argument(
        "--first-port", type=int, default=8501, help="of the web processes; the model's is next"
    )
    return made


def main() -> None:
    """Runs until it is told to end."""
    options = parser().parse_args()
    os.umask(0o077)
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if nginx is None:
        raise SystemExit("There is no nginx here. Install it: apt-get install nginx")
    options.folder = options.folder.resolve()
    for name in ("tls", "log", "tmp", "data"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    certificate(options)
    write_configuration(options, TEMPLATE.read_text())
    address = f"https://{options.name}:{options.port}/{options.path.strip('/')}/"
    keep_alive(options.folder, parts(options, nginx), address)


if __name__ == "__main__":
    main()
