#!/usr/bin/env python3
"""Make ``.venv`` and install what Pellucid needs; a second run only looks at a stamp.

    python3 dev/setup_env.py           what `make demo` needs
    python3 dev/setup_env.py --dev     what `make test` and `make check` need, too
    python3 dev/setup_env.py --long    what `make test-all` needs, too

Everything but torch comes from the hashed locks in requirements/. torch is installed on its own, because which build
is right depends on the machine: a CPU build is 200 MB, the CUDA build and its libraries about 3 GB.

Standard library only. Old Pythons must be able to read this file as far as the message that they are too old, hence
the quoted annotations.
"""

import argparse
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LOCKS = ("runtime", "dev", "long")  # each holds what the one before it does, and more
OLDEST, NEWEST = (3, 11), (3, 14)  # the Pythons that the lock and this torch are made for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "pellucid-setup.json")
LOG = os.path.join(VENV, "pellucid-setup.log")

OFFLINE_SIGNS = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname provided",
    "Network is unreachable",
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "Read timed out",
    "Cannot connect to proxy",
    "ProxyError",
    "connection error",
)


DISK_SIGNS = ("No space left on device", "Disk quota exceeded")


class SetupError(Exception):
    """A step failed; the message is for the person at the terminal."""


class Offline(SetupError):
    """A step failed because no package index answered."""


def say(text: str = "") -> None:
    print(text, file=sys.stderr, flush=True)


# --- which Python ----------------------------------------------------------------------------------------------------


def python_version(command: str) -> "tuple[int, int] | None":
    """(major, minor) of a Python on PATH; None where it is absent or does not run (a pyenv shim, say)."""
    try:
        out = subprocess.run(
            [command, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return tuple(int(part) for part in out.stdout.split()) if out.returncode == 0 else None  # type: ignore[return-value]


def use_a_fitting_python() -> None:
    """Return if this Python fits; else go on in one that does. Raises: SetupError where there is none."""
    mine = sys.version_info[:2]
    if OLDEST <= mine <= NEWEST:
        return
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and python_version(found) == (3, minor):
            say(f"{sys.executable} is Python {mine[0]}.{mine[1]}; going on with {found}.")
            os.execv(found, [found, os.path.abspath(__file__), *sys.argv[1:]])
    oldest, newest = (f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
    raise SetupError(
        f"Pellucid needs Python {oldest} to {newest}; {sys.executable} is {mine[0]}.{mine[1]}.\n"
        f"  Install one ({install_hint('python' + newest, 'python@' + newest)}),\n"
        "  or name one you have: make demo PYTHON=/path/to/python3"
    )


def install_hint(debian: str, brew: str) -> str:
    """The line that installs a package on this platform."""
    if platform.system() == "Darwin":
        return f"brew install {brew}"
    for program, line in (
        ("apt-get", "sudo apt install " + debian),
        ("dnf", "sudo dnf install python3.13"),
        ("pacman", "sudo pacman -S python"),
    ):
        if shutil.which(program):
            return line
    return "https://www.python.org/downloads/"


def check_venv_modules() -> None:
    """Debian packages venv's ensurepip apart from Python. Raises: SetupError with the line that cures it."""
    probe = subprocess.run(
        [sys.executable, "-c", "import venv, ensurepip"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if probe.returncode:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: its venv/ensurepip module is missing.\n"
            f"  Cure: {install_hint(name + '-venv', name.replace('python', 'python@'))}\n"
            "  Or use another Python: make demo PYTHON=/path/to/python3"
        )


# --- running pip ------------------------------------------------------------------------------------------------------


def pip_environment() -> "dict[str, str]":
    """The user's environment (indexes, proxies, certificates) less what would send packages elsewhere than .venv."""
    dropped = {
        "PYTHONHOME",
        "PYTHONPATH",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_REQUIRE_HASHES",
        "PIP_DRY_RUN",
        "PIP_REPORT",
    }
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment.update(PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1")
    return environment


def pip(*arguments: str) -> "list[str]":
    return [VENV_PYTHON, "-m", "pip", *arguments]


def brief(line: str) -> str:
    """What pip is doing, in a few words, from a line it printed; empty where the line says nothing."""
    words = line.split()
    if words[:1] == ["Downloading"] and len(words) > 1:
        size = " ".join(words[2:]).strip("()")
        return f"{os.path.basename(words[1]).split('-')[0]} {size}"
    if words[:1] == ["Collecting"] and len(words) > 1:
        return words[1].split("==")[0]
    if line.startswith("Installing collected"):
        return "unpacking"
    if "Retrying" in line:
        return "no answer, trying again"
    return ""


class Step:
    """One long step: says what it does while it runs, and how long it took. pip's own words go to a log."""

    def __init__(self, title: str) -> None:
        self.title, self.started, self.live = title, time.monotonic(), sys.stderr.isatty()

    def run(self, command: "list[str]") -> None:
        """Run to the end. Raises: Offline, SetupError with pip's last words."""
        if not self.live:
            say(f"  … {self.title}")
        lines = []  # type: list[str]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=pip_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        reader = threading.Thread(
            target=lambda: lines.extend(raw.decode("utf-8", "replace") for raw in process.stdout), daemon=True
        )  # type: ignore[union-attr]
        reader.start()
        try:
            while reader.is_alive():
                reader.join(0.2)
                self.show(next((text for text in map(brief, reversed(lines)) if text), ""))
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            self.clear()
            if os.path.isdir(VENV):
                with open(LOG, "a", encoding="utf-8") as log:
                    log.write("$ " + " ".join(command) + "\n" + "".join(lines) + "\n")
        if status:
            self.fail("".join(lines))
        say(f"  ✓ {self.title}  ({seconds(time.monotonic() - self.started)})")

    def show(self, detail: str) -> None:
        if self.live:
            elapsed = seconds(time.monotonic() - self.started)
            room = shutil.get_terminal_size().columns - len(self.title) - len(elapsed) - 10
            sys.stderr.write(
                f"\r\x1b[K  … {self.title}  {elapsed}" + (f"  {detail[:room]}" if detail and room > 8 else "")
            )
            sys.stderr.flush()

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def fail(self, output: str) -> "None":
        if any(sign in output for sign in DISK_SIGNS):
            raise SetupError(
                f"The disk is full ({self.title}): {VENV}, or pip's temporary folder, {tempfile.gettempdir()}.\n"
                "  Pellucid's .venv takes about 1.5 GB, 8 GB with CUDA; free some and run this again."
            )
        if is_offline(output):
            raise Offline(self.title)
        last = "\n".join("    " + line for line in output.strip().splitlines()[-12:])
        raise SetupError(f"This step failed: {self.title}\n{last}\n  All of it: {os.path.relpath(LOG)}")


def is_offline(output: str) -> bool:
    """Whether pip failed because no index answered. A try that was repeated with success is no reason."""
    if not any(sign in output for sign in OFFLINE_SIGNS):
        return False
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    # an index that does not answer has, for pip, no matching distribution
    signs = (*OFFLINE_SIGNS, "No matching distribution", "Could not find a version", "HTTPSConnectionPool")
    return not errors or any(sign in errors[-1] for sign in signs)


def seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min {value % 60:02.0f} s"


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_is_installed() -> bool:
    version = TORCH.split("==")[1]
    found = glob.glob(os.path.join(glob.escape(VENV), "lib", "python*", "site-packages", f"torch-{version}*.dist-info"))
    return any(os.path.basename(path)[len("torch-") : -len(".dist-info")].split("+")[0] == version for path in found)


def has_nvidia_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return listed.returncode == 0 and b"GPU 0" in listed.stdout


def cpu_build_version(*index: str) -> "str | None":
    """The version that pip would install with these index options, if it is a CPU build; downloads only metadata."""
    command = pip("install", "--quiet", "--dry-run", "--report", "-", "--no-deps", "--ignore-installed", *index, TORCH)
    answer = subprocess.run(
        command, env=pip_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if answer.returncode:
        return None
    metadata = json.loads(answer.stdout)["install"][0]["metadata"]
    requires = " ".join(metadata.get("requires_dist", ()))
    is_cpu = "+cpu" in metadata["version"] or not any(word in requires for word in ("nvidia", "cuda", "rocm"))
    return metadata["version"] if is_cpu else None


def install_torch() -> None:
    """The build of torch that suits this machine; says the size before a large download."""
    if platform.system() == "Darwin":
        return Step(f"{TORCH} for macOS").run(pip("install", "--no-deps", TORCH))
    if has_nvidia_gpu():
        say("  An NVIDIA GPU is here: torch comes with CUDA, a download of about 3 GB.")
        return Step(f"{TORCH} with CUDA").run(pip("install", TORCH))
    version = cpu_build_version()
    if version:
        return Step(f"torch {version}, the CPU build that your pip finds").run(pip("install", "--no-deps", TORCH))
    elsewhere = ("--index-url", TORCH_CPU_INDEX)
    version = cpu_build_version(*elsewhere, "--timeout", "5", "--retries", "0")
    if version:
        return Step(f"torch {version}, the CPU build").run(pip("install", "--no-deps", *elsewhere, TORCH))
    say(f"  No CPU build of torch is within pip's reach ({TORCH_CPU_INDEX} gave none).")
    say("  The build with CUDA does for this machine too, but is a download of about 3 GB. Ctrl-C stops it.")
    return Step(f"{TORCH} with CUDA").run(pip("install", TORCH))


# --- the whole --------------------------------------------------------------------------------------------------------


def inputs_key() -> str:
    """A hash of all that decides what is in .venv; a moved checkout needs a new one (venvs hold absolute paths)."""
    digest = hashlib.sha256(os.fsencode(ROOT) + TORCH.encode())
    for name in [*(f"requirements/{lock}.lock" for lock in LOCKS), "pyproject.toml"]:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp() -> "dict":
    try:
        with open(STAMP, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def venv_is_usable() -> bool:
    version = python_version(VENV_PYTHON)
    return version is not None and OLDEST <= version <= NEWEST and read_stamp().get("root", ROOT) == ROOT


def set_up(wanted: int) -> None:
    """Bring .venv up to date with lock number ``wanted``, or with the fuller one that it had. Raises: SetupError."""
    key, stamp = inputs_key(), read_stamp()
    had = stamp.get("lock", int(bool(stamp.get("dev"))))
    if stamp.get("key") == key and had >= wanted and os.path.exists(VENV_PYTHON):
        return
    use_a_fitting_python()
    started = time.monotonic()
    wanted = max(wanted, had)
    lock = f"requirements/{LOCKS[wanted]}.lock"
    packages = f"the packages of {lock}"

    say("Setting up .venv, once:")
    missing = [packages, TORCH]
    try:
        if not venv_is_usable():
            check_venv_modules()
            Step(f"a virtual environment, Python {platform.python_version()}").run(
                [sys.executable, "-m", "venv", "--clear", VENV]
            )
        Step(packages).run(pip("install", "--require-hashes", "--no-deps", "-r", lock))
        missing.remove(packages)
        if not torch_is_installed():
            install_torch()
        Step("pellucid itself, from src/").run(pip("install", "--no-deps", "--no-build-isolation", "--editable", "."))
    except Offline:
        raise SetupError(
            "No network: no package index answered. Not fetched:\n"
            + "".join(f"  - {name}\n" for name in missing)
            + "Run this again when there is one. Behind a mirror or proxy, set PIP_INDEX_URL or HTTPS_PROXY;\n"
            "with the wheels on a disk, PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels.\n"
            "The model can come from a disk, too: make demo MODEL=path"
        ) from None
    with open(STAMP, "w", encoding="utf-8") as file:
        json.dump({"key": key, "lock": wanted, "root": ROOT}, file)
    say(f"Ready after {seconds(time.monotonic() - started)}.\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv and install what Pellucid needs.")
    parser.add_argument("--dev", action="store_true", help="what tests and checks need, too")
    parser.add_argument("--long", action="store_true", help="what the long tests need, too")
    arguments = parser.parse_args()
    try:
        set_up(2 if arguments.long else 1 if arguments.dev else 0)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("\nStopped. Run it again to go on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
