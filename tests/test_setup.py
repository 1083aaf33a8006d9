"""The front door: what the locks and the set-up script promise, as far as it shows without a network."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "dev" / "setup_env.py"
LOCKS = [ROOT / "requirements" / name for name in ("runtime.lock", "dev.lock", "long.lock")]


@pytest.fixture
def setup_env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_and_hashes_everything_but_torch(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"\n(?=[a-z])", text[text.index("\n") + 1 :])
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[\w.]+ ", entry), entry
        assert "--hash=sha256:" in entry
        assert not re.match(r"(torch|triton|nvidia-|cuda-)", entry)
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links", text)


def test_the_locks_agree() -> None:
    runtime, dev, long = (set(re.findall(r"^\S+==\S+", lock.read_text(), re.MULTILINE)) for lock in LOCKS)
    assert runtime < dev < long


def test_the_lock_holds_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    for lock, requirements in (
        (LOCKS[1], project["project"]["dependencies"] + groups["dev"]),
        (LOCKS[2], groups["long"]),
    ):
        locked = {name.replace("_", "-") for name in re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)}
        for requirement in requirements:
            name = re.split(r"[\[<>=]", requirement)[0].replace("_", "-")
            assert name in locked or name == "torch", f"{name}: run make lock"


@pytest.mark.parametrize(("words", "lock"), [([], "runtime"), (["--dev"], "dev"), (["--long"], "long")])
def test_each_purpose_has_its_lock_and_a_fuller_one_stays(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], lock: str
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", *words])
    monkeypatch.setattr(setup_env, "STAMP", str(tmp_path / "stamp.json"))
    monkeypatch.setattr(setup_env, "venv_is_usable", lambda: True)
    monkeypatch.setattr(setup_env, "torch_is_installed", lambda: True)
    monkeypatch.setattr(
        setup_env.Step,
        "run",
        lambda self, command: installed.extend(word for word in command if word.endswith(".lock")),
    )
    assert setup_env.main() == 0
    assert installed == [f"requirements/{lock}.lock"]
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py"])
    assert setup_env.main() == 0
    assert len(installed) == 1, "what was asked for is there already"
    monkeypatch.setattr(setup_env, "inputs_key", lambda: "a newer one")
    assert setup_env.main() == 0
    assert installed[1:] == [f"requirements/{lock}.lock"]


def test_torch_is_the_one_that_the_project_names(setup_env: ModuleType) -> None:
    assert f'"{setup_env.TORCH}"' in (ROOT / "pyproject.toml").read_text()


def test_an_old_python_can_read_the_script_as_far_as_the_message() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    assert "from __future__" not in SCRIPT.read_text(), "3.6 knows no annotations feature"


def test_a_python_without_ensurepip_gets_the_line_that_cures_it(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(setup_env.platform, "system", lambda: "Linux")
    with pytest.raises(setup_env.SetupError, match=rf"sudo apt install python3\.{sys.version_info[1]}-venv"):
        setup_env.check_venv_modules()


def test_an_unfit_python_is_named_with_what_to_do(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 6))
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r"needs Python 3\.11 to 3\.14; .* is 3\.9(.|\n)*PYTHON="):
        setup_env.use_a_fitting_python()


def test_a_failed_step_says_whether_it_was_the_network(setup_env: ModuleType) -> None:
    step = setup_env.Step("something")
    with pytest.raises(setup_env.Offline):
        step.fail(
            "WARNING: Retrying … NewConnectionError: Failed to establish a new connection: "
            "[Errno 101] Network is unreachable"
        )
    with pytest.raises(setup_env.SetupError, match="The disk is full"):
        step.fail("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    with pytest.raises(setup_env.SetupError, match="hashes") as failed:
        step.fail("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES: hashes")
    assert not isinstance(failed.value, setup_env.Offline)


def test_a_failure_of_pips_own_after_a_repeated_try_is_not_called_the_networks(setup_env: ModuleType) -> None:
    repeated = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)': /simple/x/\n"
    for own in (
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
        "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'",
        "ERROR: Failed to build 'pellucid' when getting requirements to build editable",
    ):
        with pytest.raises(setup_env.SetupError, match="This step failed") as failed:
            setup_env.Step("something").fail(f"{repeated}Downloading x\n{own}")
        assert own in str(failed.value)
    with pytest.raises(setup_env.Offline):
        setup_env.Step("something").fail(f"{repeated}ERROR: No matching distribution found for numpy==2.0")


def test_a_full_disk_names_the_folders(setup_env: ModuleType) -> None:
    with pytest.raises(setup_env.SetupError, match=r"(?s)full .*\.venv.*tmp"):
        setup_env.Step("something").fail("ERROR: [Errno 122] Disk quota exceeded")


def test_make_takes_a_prompt_as_it_is() -> None:
    prompt = """It's "5 $ 7" `or` $HOME \\ and $(shell false)"""
    probe = 'include Makefile\nprobe:\n\t@printf "%s" "$$PROMPT"\n'
    result = subprocess.run(
        ["make", "-s", "-f", "-", "probe", f"PROMPT={prompt}"], input=probe, cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout == prompt, result.stderr


def test_make_help_lists_the_targets() -> None:
    text = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "test-all", "check"):
        assert re.search(rf"^  {target} ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
