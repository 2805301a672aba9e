"""`nbaccel config ...`: in this process where that shows the same, in one of its own where it does not."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import nbaccel
from nbaccel.cli.config import command
from nbaccel.cli.config.change import kind_of_run
from nbaccel.cli.config.paint import print_diff
from nbaccel.config import NOTEBOOK, call_layer, resolve
from nbaccel.config.commands import Changed, differences, read_snapshot, set_value, show, target_file, unset_value, why
from nbaccel.config.commands.change import _outcome
from nbaccel.config.commands.look import in_force
from nbaccel.config.snapshot import snapshot
from nbaccel.errors import ConfigError, ConfigFileError, NbaccelError
from nbaccel.machine import Gpu, Machine

COMMAND = [sys.executable, "-m", "nbaccel.cli.main", "config"]
PROJECT = Path(".accelerate/default_config.yaml")
USER = Path(".cache/huggingface/accelerate/default_config.yaml")


@pytest.fixture(autouse=True)
def place(nowhere: Path) -> Path:
    return nowhere


def run(*words: str, answers: str = "", code: int = 0) -> str:
    """What a command prints."""
    result = invoked(*words, answers=answers)
    if isinstance(result.exception, NbaccelError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def invoked(*words: str, answers: str = "") -> Result:
    return CliRunner().invoke(command, list(words), input=answers)


def process(*words: str, answers: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    line = [*COMMAND, *words]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, env={**os.environ, **environ}, input=answers
    )


def write(name: str | Path, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- in processes ---


def test_help_comes_at_once_and_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['nbaccel', *sys.argv[1:]]; from nbaccel.cli.main import main\n"
        "try: main()\n"
        "finally: print(*sorted({'torch', 'IPython', 'pydantic', 'yaml'} & set(sys.modules)), file=sys.stderr)\n"
    )
    for words in (["--help"], ["config", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == ""
    assert "config" in done.stdout
    assert "validate" in done.stdout


def test_a_session_in_a_terminal() -> None:
    done = process("set", "mixed_precision", "bf16")
    assert (done.returncode, done.stderr) == (0, "")
    assert "+mixed_precision: bf16\n" in done.stdout
    assert "\x1b" not in done.stdout
    done = process("set", "mixed_precision", "bf61")
    assert done.returncode == 2
    assert done.stderr.startswith("nbaccel: mixed_precision='bf61' (for .accelerate/default_config.yaml)")
    assert done.stderr.count("\n") == 1
    assert "mixed_precision: bf16\n" in PROJECT.read_text()
    done = process("why", "mixed_precision", ACCELERATE_MIXED_PRECISION="fp16")
    assert done.stdout == (
        "mixed_precision = 'fp16' from the variable ACCELERATE_MIXED_PRECISION (environment)\n"
        "  shadows 'bf16' from .accelerate/default_config.yaml:2:18 (project)\n"
        "  shadows 'no' from the default (default)\n"
    )


def test_the_questionnaire_reads_lines() -> None:
    done = process(answers="\n" * 30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("written: .accelerate/default_config.yaml")
    assert yaml.safe_load(PROJECT.read_text())["compute_environment"] == "LOCAL_MACHINE"


def test_replay_runs_the_snapshots_script() -> None:
    write("train.py", "import os, sys; print('ran', sys.argv[1:], os.environ.get('ACCELERATE_MIXED_PRECISION'))\n")
    write("run.yaml", "nbaccel_snapshot: 1\ncommand: [train.py, --lr, '1']\n"
                      "config: {mixed_precision: bf16, num_processes: 1, use_cpu: true}\n")  # fmt: skip
    done = process("replay", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert "ran ['--lr', '1'] bf16" in done.stdout


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_colour_on_terminals_alone(variable: str, coloured: bool) -> None:
    screen, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": variable}
    subprocess.run([*COMMAND, "set", "seed", "1"], stdout=terminal, env=environ, check=True, timeout=60)
    os.close(terminal)
    shown = os.read(screen, 10_000).decode()
    os.close(screen)
    assert "+seed: 1" in shown
    assert ("\x1b[32m+seed: 1" in shown) is coloured


# --- set, unset ---


def test_set_says_where_it_is_not_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("set", "gradient_accumulation_steps", "2").count("\n") == 5
    assert "already says" in run("set", "gradient_accumulation_steps", "2")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    said = run("set", "gradient_accumulation_steps", "4")
    assert "not in force: the variable ACCELERATE_GRADIENT_ACCUMULATION_STEPS (environment) is above this file" in said
    assert "says gradient_accumulation_steps = 8" in said
    said = run("unset", "gradient_accumulation_steps")
    assert "in force now: gradient_accumulation_steps = 8 from the variable" in said


def test_set_says_that_it_has_no_effect() -> None:
    assert "fsdp_config.fsdp_version has no effect: distributed_type is not set" in run("set", "fsdp_version", "2")
    assert yaml.safe_load(PROJECT.read_text()) == {"fsdp_config": {"fsdp_version": 2}}
    assert "does not set seed" in run("unset", "seed")
    assert yaml.safe_load(PROJECT.read_text()) == {"fsdp_config": {"fsdp_version": 2}}
    run("unset", "fsdp_config")
    assert yaml.safe_load(PROJECT.read_text()) is None


def test_the_layers_have_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    user = Path.home() / USER
    said = run("set", "seed", "1", "--layer", "user")
    assert user.read_text().endswith("seed: 1\n")
    assert "is Accelerate's file, too: its own commands refuse a file with seed" in said
    assert "Accelerate" not in run("set", "num_processes", "2", "--layer", "user")
    run("set", "seed", "2", "--layer", "project")
    assert PROJECT.read_text().endswith("seed: 2\n")
    assert ".accelerate/default_config.yaml:2:7 (project) is above this file" in run(
        "set", "seed", "5", "--layer", "user"
    )
    run("set", "seed", "3", "--config-file", "other.yaml")
    assert Path("other.yaml").read_text().endswith("seed: 3\n")
    monkeypatch.setenv("ACCELERATE_CONFIG_FILE", "other.yaml")
    run("set", "seed", "4", "--layer=file")
    assert Path("other.yaml").read_text().endswith("seed: 4\n")
    assert "other.yaml:2:7 (file) is above" in run("set", "seed", "2", "--layer", "user")


def test_a_file_that_nothing_names_is_named() -> None:
    write("other.yaml", "seed: 1\nmax_restarts: 1\n")
    run("unset", "seed", "--config-file", "other.yaml")
    assert "is read only where it is named" in next(_outcome("seed", Path("other.yaml"), in_force()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set", "seed", "1", "--layer", "notebook"], "project, user, file"),
        (["set", "seed", "1", "--layer", "file"], "--config-file FILE, or the variable ACCELERATE_CONFIG_FILE"),
        (["set", "seed", "1", "--layer", "user", "--config-file", "x"], "one of the two"),
        (["set", "timeout", "soon"], "a number above 0"),
        (["set", "num_proceses", "2"], "Did you mean 'num_processes'"),
        (["set", "enabled", "true"], "one of autocast_config.enabled, grad_scaler_config.enabled"),
        (["set", "aws_secret_access_key", "k"], "the variable AWS_SECRET_ACCESS_KEY"),
        (["unset", "num_proceses"], "Did you mean 'num_processes'"),
        (["why", "mixed_precison"], "Did you mean 'mixed_precision'"),
        (["show", "mixed_precison"], "Did you mean 'mixed_precision'"),
        (["show", "--profile", "staging"], "profile='staging' .from the flag --profile"),
        (["show", "--config-file", "x.yaml"], "there is no such file"),
        (["default", "--mixed-precision", "bf61"], "Did you mean 'bf16'"),
        (["update"], "Name one: --config-file FILE"),
        (["validate"], "there is neither a project file nor one of yours"),
        (["diff", "x.yaml"], "there is no such file"),
        (["replay", "x.yaml"], "there is no such file"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*words)
    assert not PROJECT.exists()


def test_values_are_typed() -> None:
    values = {
        "num_processes": ("2", 2), "params.lr": ("1e-4", 0.0001), "params.name": ("no one", "no one"),
        "deepspeed_config.optimizer": ("{type: Adam}", {"type": "Adam"}), "gpu_ids": ("0,1", "0,1"),
        "main_process_port": ("null", None), "debug": ("yes", True),
    }  # fmt: skip
    for key, (text, _) in values.items():
        set_value(key, text)
    held = yaml.safe_load(PROJECT.read_text())
    for key, (_, value) in values.items():
        outer, _, inner = key.partition(".")
        assert (held[outer][inner] if inner else held[outer]) == value


def test_other_peoples_mistakes_do_not_stop_a_change() -> None:
    write(PROJECT, "num_proceses: 2\n")
    assert "the configuration as a whole is not valid" in run("set", "seed", "1")
    assert "num_proceses" not in run("unset", "num_proceses").splitlines()[-1]
    assert PROJECT.read_text() == "seed: 1\n"


def test_secrets_of_a_file_are_not_shown() -> None:
    write(PROJECT, "aws_secret_access_key: very\nseed: 1\n")
    said = run("set", "seed", "2") + run("why", "aws_secret_access_key") + run("show") + run("validate")
    assert "very" not in said
    assert "********" in said


# --- default, update ---


def test_default_writes_once() -> None:
    said = run("default", "--mixed_precision", "bf16")
    path = Path.home() / USER
    held = yaml.safe_load(path.read_text())
    assert held["mixed_precision"] == "bf16"
    assert list(held) == ["compute_environment", "distributed_type", "mixed_precision"]
    assert "written: " in said
    with pytest.raises(ConfigFileError, match="there is such a file already"):
        run("default")
    run("default", "--config_file", "new.json")
    assert json.loads(Path("new.json").read_text())["mixed_precision"] == "no"


def test_accelerate_reads_it() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    run("default", "--config-file", "new.yaml", "--mixed-precision", "bf16")
    run("set", "gpu_ids", "0,1", "--config-file", "new.yaml")
    assert load_config_from_file("new.yaml").gpu_ids == "0,1"


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        (Machine(), "MULTI_CPU"),
        (Machine(has_mps=True), "NO"),
        (Machine(gpus=(Gpu(0, "0"),)), "NO"),
        (Machine(gpus=(Gpu(0, "0"), Gpu(1, "1"))), "MULTI_GPU"),
        (Machine(tpu_chips=4), "XLA"),
    ],
)
def test_what_suits_a_machine(machine: Machine, kind: str) -> None:
    assert kind_of_run(machine) == kind


def test_update() -> None:
    old = "# mine\nfp16: true\nnewer: x\n"
    path = write("old.yaml", old)
    said = run("update", "--config-file", "old.yaml", "--dry-run")
    assert path.read_text() == old
    assert said == run("update", "--config_file", "old.yaml")
    assert path.read_text() == "# mine\nmixed_precision: fp16\nnewer: x\n"
    assert "-fp16: true\n+mixed_precision: fp16\n" in said
    assert "old.yaml:2:7: `fp16` is called `mixed_precision: fp16` today" in said
    assert "stays, though nobody knows it: the key 'newer'" in said
    assert "is in today's words" in run("update", "--config-file", "old.yaml")


def test_update_finds_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    user = write(Path.home() / USER, "fp16: true\n")
    run("update")
    assert user.read_text() == "mixed_precision: fp16\n"
    write(PROJECT, "fp16: false\n")
    run("update")
    assert PROJECT.read_text() == "mixed_precision: 'no'\n"
    write("named.yaml", "fp16: true\n")
    monkeypatch.setenv("ACCELERATE_CONFIG_FILE", "named.yaml")
    run("update")
    assert Path("named.yaml").read_text() == "mixed_precision: fp16\n"


# --- show, why ---


def test_show() -> None:
    write(PROJECT, "seed: 3\nparams: {lr: 0.1, trainer: {epochs: 2}}\nfsdp_config: {fsdp_version: 2}\n")
    lines = run("show").splitlines()
    assert next(line for line in lines if line.startswith("seed ")).split() == [
        "seed", "=", "3", "project", ".accelerate/default_config.yaml:1:7"
    ]  # fmt: skip
    assert any(line.startswith("params.trainer.epochs") for line in lines)
    assert len(run("show", "--all").splitlines()) > 100
    assert run("show", "fsdp_version").startswith("fsdp_config.fsdp_version = 2")
    assert len(run("show", "fsdp_config").splitlines()) > 10
    assert [line.split()[0] for line in run("show", "params").splitlines()] == ["params.lr", "params.trainer.epochs"]
    assert [line.split()[0] for line in run("show", "params.trainer", "seed").splitlines()] == [
        "params.trainer.epochs", "seed"
    ]  # fmt: skip


def test_show_json() -> None:
    write(PROJECT, "seed: 3\ngpu_ids: [0, 1]\nparams: {hf_token: very}\n")
    found = json.loads(run("show", "--json", "seed", "gpu_ids", "params.hf_token"))
    assert found["seed"] == {"value": 3, "layer": "project", "place": ".accelerate/default_config.yaml:1:7"}
    assert found["gpu_ids"]["value"] == [0, 1]
    assert found["params.hf_token"]["value"] == "********"
    assert len(json.loads(run("show", "--json", "--all"))) > 100


def test_profile_and_file_are_read() -> None:
    write(PROJECT, "seed: 1\n")
    write(".accelerate/staging.yaml", "seed: 2\n")
    write("named.yaml", "seed: 3\n")
    assert "seed = 2 from .accelerate/staging.yaml:1:7" in run("why", "seed", "--profile", "staging")
    assert "seed = 3 from named.yaml:1:7" in run("why", "seed", "--profile", "staging", "--config_file", "named.yaml")
    assert run("show", "seed", "--config-file", "named.yaml").startswith("seed = 3")


# --- validate, diff, schema ---

WRONG = """\
fp16: true
num_proceses: 3
num_processes: 0
fsdp_config:
  sharding_strategy: 1
  fsdp_bogus: 2
timeout: -1
hang_after: "${oops}"
monitor_interval: "${ouch}"
params: {hf_token: very}
"""


def test_validate_says_all_at_once() -> None:
    write("wrong.yaml", WRONG)
    said = run("validate", "wrong.yaml", code=1)
    assert said.endswith("wrong.yaml: 6 problems\n")
    for place in ("2:1", "6:3", "3:16", "7:10", "8:13", "9:19"):
        assert f"wrong.yaml:{place}" in said
    assert "Did you mean 'num_processes'" in said
    assert "warning: wrong.yaml:10:20: params.hf_token is a secret" in said
    assert "note: wrong.yaml:1:7: `fp16` is called `mixed_precision: fp16` today" in said
    assert "warning: wrong.yaml:5:22: fsdp_config.fsdp_sharding_strategy has no effect: distributed_type is not" in said
    assert "very" not in said


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: [\n", 1),
        ("fsdp_config: 5\nseed: x\nrole: y\n", 2),
        ("fsdp_config: {sharding_strategy: 1, fsdp_sharding_strategy: 2}\nseed: x\n", 2),
        ("include: missing.yaml\nseed: x\n", 3),
        ("seed: 1\n", 0),
        ("", 0),
    ],
)
def test_validate_counts(text: str, problems: int) -> None:
    write("wrong.yaml", text)
    words = "1 problem" if problems == 1 else f"{problems or 'no'} problems"
    said = run("validate", "wrong.yaml", code=1 if problems else 0)
    assert said.endswith(f"wrong.yaml: {words}\n")


def test_validate_without_omegaconf(monkeypatch: pytest.MonkeyPatch) -> None:
    write("x.yaml", 'seed: "${n}"\n')
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    assert "needs the package 'omegaconf'" in run("validate", "x.yaml", code=1)


def test_validate_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    write(PROJECT, "profile: staging\nfsdp_config: {fsdp_version: 2}\n")
    write(".accelerate/staging.yaml", "distributed_type: FSDP\n")
    write(Path.home() / USER, "seed: 1\n")
    assert run("validate") == f".accelerate/staging.yaml, {PROJECT}, ~/{USER}: no problems\n"
    assert "has no effect" in run("validate", str(PROJECT))
    assert "has no effect" not in run("validate", str(PROJECT), "--profile", "staging")
    write("named.yaml", "seed: x\n")
    monkeypatch.setenv("ACCELERATE_CONFIG_FILE", "named.yaml")
    assert "named.yaml:1:7" in run("validate", code=1)
    assert "named.yaml:1:7" in run("validate", "--config-file", "named.yaml", code=1)
    monkeypatch.setenv("NBACCEL_PROFILE", "stagin")
    with pytest.raises(ConfigError, match="Did you mean 'staging'"):
        run("validate")


def test_diff() -> None:
    write("a.yaml", "seed: 1\nparams: {lr: 1, hf_token: very}\n")
    write("b.yaml", "seed: 1\nmixed_precision: bf16\nparams: {lr: 2}\n")
    head, *lines = run("diff", "a.yaml", "b.yaml").splitlines()
    assert head == "key              a.yaml      b.yaml"
    assert sorted(lines) == [
        "mixed_precision  'no'        'bf16'",
        "params.hf_token  '********'  None",
        "params.lr        1           2",
    ]
    assert run("diff", "a.yaml", "a.yaml") == "a.yaml and a.yaml say the same\n"
    write(PROJECT, "seed: 2\n")
    assert "seed             1           2" in run("diff", "a.yaml")
    write("c.yaml", "sead: 1\n")
    with pytest.raises(ConfigError, match="Did you mean 'seed'"):
        run("diff", "c.yaml")


def test_schema() -> None:
    assert json.loads(run("schema"))["properties"]["seed"]["x-env"] == "NBACCEL_SEED"


# --- the questionnaire ---


def test_questions_change_the_file_that_is_named() -> None:
    path = write("mine.yaml", "# mine\ndistributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2 # new\nhang_after: 5\n")
    said = run("--config_file", "mine.yaml", answers="\n" * 8 + "n\n" + "\n" * 12)
    assert "Write this to mine.yaml?" in said
    assert path.read_text().startswith("# mine\nhang_after: 5\n")
    assert "fsdp" not in path.read_text()
    assert said.rstrip().endswith("written: mine.yaml")
    assert "mine.yaml says so already" in run("--config-file", "mine.yaml", answers="\n" * 30)


def test_questions_can_be_answered_with_no() -> None:
    said = run(answers="\n" * 18 + "no\n")
    assert said.rstrip().endswith("nothing was written")
    assert not PROJECT.exists()


def test_questions_end_with_their_input() -> None:
    result = invoked(answers="\n\n")
    assert result.exit_code == 1
    assert "nothing was written" in result.output
    assert not PROJECT.exists()


def test_questions_begin_with_what_the_user_has_chosen_before() -> None:
    user = write(Path.home() / USER, "mixed_precision: bf16\nseed: x\n")
    said = run(answers="\n" * 17 + "user\n" + "\n")
    assert "mixed_precision [bf16]" in said
    assert "compute_environment: LOCAL_MACHINE" in user.read_text()
    assert "seed: x" in user.read_text()


def test_the_groups_own_option_is_for_the_questions() -> None:
    result = invoked("--config-file", "x.yaml", "show")
    assert result.exit_code == 2
    assert "goes behind the command's name" in result.output


def test_an_unknown_command() -> None:
    result = invoked("shwo")
    assert result.exit_code == 2
    assert "No such command 'shwo'" in result.output


# --- replay ---

SNAPSHOT = """\
nbaccel_snapshot: 1
command: [train.py, --lr, '1']
config: {mixed_precision: bf16, use_cpu: true, num_processes: 1, params: {hf_token: '********'}}
versions: {python: 3.1.4, nbaccel: VERSION, click: 0.1, no-such-package: 1.0}
""".replace("VERSION", nbaccel.__version__)


@pytest.fixture
def recorded() -> Path:
    write("train.py", "")
    return write("run.yaml", SNAPSHOT)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (["--dry-run", "run.yaml"], "train.py --lr 1"),
        (["run.yaml", "--dry-run"], "train.py --lr 1"),
        (["run.yaml", "--dry_run", "train.py", "--dry-run"], "train.py --dry-run"),
    ],
)
def test_replay_shows_what_it_would_run(recorded: Path, words: list[str], script: str) -> None:
    said = run("replay", *words)
    assert said.rstrip().endswith(script)
    assert "ACCELERATE_MIXED_PRECISION=bf16" in said


def test_replay_says_what_has_changed(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(PROJECT, "seed: 3\nuse_cpu: false\n")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    notes = [line for line in run("replay", "run.yaml", "--dry-run").splitlines() if line.startswith("note: ")]
    assert "note: click was 0.1 then and is " in notes[1]
    assert "note: no-such-package was 1.0 then and is not installed now" in notes
    assert not any("nbaccel was" in note for note in notes)
    assert (
        "note: mixed_precision was 'bf16' then and is 'no' now, from the variable ACCELERATE_MIXED_PRECISION"
        in "".join(notes)
    )
    assert "note: seed was None then and is 3 now, from .accelerate/default_config.yaml:1:7 (project)" in notes
    assert "note: params.hf_token was a secret, which snapshots do not hold: set the variable HF_TOKEN" in notes
    assert not any("use_cpu" in note for note in notes)


def test_a_snapshot_names_its_secrets_and_replay_takes_them_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    write("train.py", "")
    given = call_layer({"params": {"hub": {"token": "hush", "name": "me"}, "pad_token": "<pad>", "api_key": None}})
    text = snapshot(resolve(given), command=["train.py"])
    assert "hush" not in text
    path = write("run.yaml", text)
    assert read_snapshot(path).secrets == ("params.hub.token",)
    note = "note: params.hub.token was a secret, which snapshots do not hold: set the variable HUB_TOKEN"
    notes = [line for line in run("replay", "run.yaml", "--dry-run").splitlines() if line.startswith("note: params")]
    assert notes == [note]
    monkeypatch.setenv("HUB_TOKEN", "hush again")
    assert resolve(config_file=path).config.params == {
        "hub": {"token": "hush again", "name": "me"}, "pad_token": "<pad>", "api_key": None,
    }  # fmt: skip
    assert "params." not in "".join(read_snapshot(path).notes())


@pytest.mark.parametrize("layer", ["project", "user"])
def test_a_secret_that_a_file_names_is_found_there_again(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    write("train.py", "")
    file = PROJECT if layer == "project" else Path.home() / USER
    named = write(file, "params: {hub: {token: '${oc.env:HF_TOKEN}', name: me}}\n")
    text = snapshot(resolve(call_layer({"params": {"api_key": "hush"}})), command=["train.py"])
    assert yaml.safe_load(text)["config"] == {"params": {"api_key": None, "hub": {"name": "me"}}}
    assert "aws_access_key_id" not in yaml.safe_load(text)["defaults"]
    path = write("run.yaml", text)
    again = resolve(config_file=path).config
    assert (again.params["hub"], again.aws_access_key_id) == ({"token": "hush", "name": "me"}, "mine")
    assert _notes_on_secrets(path) == ["params.api_key"]
    named.unlink()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert sorted(_notes_on_secrets(path)) == ["aws_access_key_id", "params.api_key", "params.hub.token"]


def _notes_on_secrets(path: Path) -> list[str]:
    return [note.partition(" was a secret, ")[0] for note in read_snapshot(path).notes() if " was a secret, " in note]


def test_replay_of_a_notebooks_run_needs_a_script() -> None:
    write("run.yaml", "nbaccel_snapshot: 1\ncommand: []\nconfig: {seed: 1}\n")
    with pytest.raises(ConfigError, match="a snapshot of a notebook's run, without a script"):
        run("replay", "run.yaml")
    write("other.yaml", "seed: 1\n")
    with pytest.raises(ConfigFileError, match="this is no snapshot of a run"):
        run("replay", "other.yaml")


# --- as functions ---


def test_the_notebooks_layer_counts() -> None:
    NOTEBOOK.update({"seed": 5}, "%accelerate set")
    try:
        changed = set_value("seed", "6")
        assert "not in force: %accelerate set (notebook) is above this file and says seed = 5" in str(changed)
        assert repr(changed) == str(changed)
        assert why("seed").layer == "notebook"
        assert str(show(["seed"])).startswith("seed = 5  notebook")
    finally:
        NOTEBOOK.undo()


def test_results_are_true_where_there_is_something() -> None:
    assert set_value("seed", "6")
    assert not set_value("seed", "6")
    assert not unset_value("role")
    assert differences(PROJECT) == differences(PROJECT)
    assert not differences(PROJECT)
    assert target_file() == Path.cwd() / PROJECT
    write("run.yaml", SNAPSHOT)
    assert read_snapshot("run.yaml").command == ("train.py", "--lr", "1")


def test_a_diff_is_printed_plainly_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    print_diff(Changed(Path("x.yaml"), "seed: 1\n", "seed: 2\n").diff)
    assert capsys.readouterr().out == "--- x.yaml\n+++ x.yaml\n@@ -1 +1 @@\n-seed: 1\n+seed: 2\n"
