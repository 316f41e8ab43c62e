# SPDX-License-Identifier: Apache-2.0
"""Runs the whole path from data to report on the embedded world: `make demo`.

Each stage is a command that a user could type. stages.json records the finished stages and a digest of the code and the settings: an
interrupted demo resumes, but only with the same code and settings.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from critic_r1_verl import cli, foreign
from critic_r1_verl.files import write_json
from critic_r1_verl.training.compose import compose
from critic_r1_verl.training.launch import end_with_make

HERE = Path(__file__).resolve().parent
STAGES = ("draw", "build", "teach", "measure base", "train", "export", "measure trained", "report")
# The texts of the small model are short; a longer one only repeats itself.
TOKENS = ("--max-tokens", "64")


class Demo:
    """One demo in the folder out, with the settings of the command line."""

    def __init__(self, out: Path, random_labels: bool = False, base_from: Path | None = None, control: Path | None = None) -> None:
        self.out, self.random_labels, self.base_from, self.control = out, random_labels, base_from, control
        self.world, self.data, self.base, self.trained = (out / name for name in ("world", "data", "base", "trained"))
        self.inputs = self._inputs()

    def run(self, until: str = STAGES[-1]) -> int:
        """Run the stages that are not done, up to `until`; the report is always written again. SystemExit if a stage fails."""
        self.out.mkdir(parents=True, exist_ok=True)
        done = self._done()
        for number, name in enumerate(STAGES[: STAGES.index(until) + 1], 1):
            before = " (done before)" if name in done and name != "report" else ""
            if not before:
                start = time.monotonic()
                method, *arguments = name.split()
                note = getattr(self, method)(*arguments)
                done[name] = {"note": note, "seconds": round(time.monotonic() - start, 1)}
                write_json(self.out / "stages.json", {"inputs": self.inputs, "stages": done})
            foreign.say(f"[{number}/{len(STAGES)}] {name:<16} {done[name]['seconds']:7.1f} s  {done[name]['note']}{before}")
        return 0

    def draw(self) -> str:
        self._call("draw", str(HERE / "world.py"), "--out", str(self.world))
        return "pairs, questions and lessons"

    def build(self) -> str:
        corpus = f"{HERE / 'corpus.py'}:{self.world / 'rows.jsonl'}"
        templates = ("--template", "critic_short", "--question-template", "policy_short")
        self._critic_r1("build", "data", "build", "--corpus", corpus, *templates, "--base", "tiny", "--no-lengths", "--out", str(self.data))
        splits = json.loads((self.data / "manifest.json").read_text(encoding="utf-8"))["splits"]
        train, test = splits["train"], splits["test"]
        return f"{train['pairs']} training pairs; {test['pairs']} pairs and {test['questions']} questions held out"

    def teach(self) -> str:
        if self.base_from:
            shutil.copytree(self.base_from / "base", self.base, dirs_exist_ok=True)
            return f"base taken from {self.base_from}"
        self._call("teach", str(HERE / "teach.py"), "--lessons", str(self.world / "lessons.jsonl"), "--out", str(self.base))
        return str(self.base)

    def measure(self, name: str) -> str:
        out = self.out / "eval" / name
        if name == "base" and self.base_from:
            shutil.copytree(self.base_from / "eval" / "base", out, dirs_exist_ok=True)
            return f"measurement taken from {self.base_from}"
        flags = ("--model", str(self.out / name), "--data", str(self.data), *TOKENS, "--out", str(out))
        self._critic_r1(f"measure-{name}", "eval", *flags)
        self._critic_r1(f"select-{name}", "select", *flags, "--samples", "8")
        metrics = json.loads((out / "test" / "metrics.json").read_text(encoding="utf-8"))
        return f"critic {metrics['critic']['accuracy']['value']:.1%}, policy {metrics['policy']['greedy']['value']:.1%}"

    def train(self) -> str:
        if status := cli.main(["train", "--log", str(self.out / "training.log"), *self._overrides()]):
            raise SystemExit(status)
        lines = (self.out / "training.jsonl").read_text(encoding="utf-8").splitlines()
        return f"{sum('actor/lr' in line for line in lines)} GRPO steps"

    def export(self) -> str:
        name = compose("critic_r1", self._overrides()).trainer.experiment_name
        self._critic_r1("export", "export", str(self.out / "checkpoints" / name), "--out", str(self.trained))
        return str(self.trained)

    def report(self) -> str:
        base, trained = (self.out / "eval" / name for name in ("base", "trained"))
        control = ["--control", str(self.control)] if self.control else []
        files = (
            "--training",
            str(self.out / "training.jsonl"),
            "--out",
            str(self.out / "report.html"),
            "--svg",
            str(self.out / "result.svg"),
        )
        if status := cli.main(["report", str(trained), "--against", str(base), *control, *files]):
            raise SystemExit(status)
        return str(self.out / "report.html")

    def _overrides(self) -> list[str]:
        return [
            "+recipe/base=tiny",
            "+recipe/hardware=cpu",
            *(["+recipe/study=random_labels"] if self.random_labels else []),
            f"actor_rollout_ref.model.path={self.base}",
            f"data.train_files={self.data / 'train.parquet'}",
            f"data.val_files={self.data / 'val.parquet'}",
            f"trainer.default_local_dir={self.out / 'checkpoints'}/${{trainer.experiment_name}}",
        ]

    def _done(self) -> dict[str, dict]:
        """The finished stages by name. SystemExit if they were run by other code or with other settings."""
        file = self.out / "stages.json"
        if not file.is_file():
            # A measurement resumes from existing files, which must not be those of another demo.
            shutil.rmtree(self.out / "eval", ignore_errors=True)
            return {}
        noted = json.loads(file.read_text(encoding="utf-8"))
        if noted["inputs"] != self.inputs:
            raise SystemExit(f"critic-r1: {self.out} was made by other code or settings: remove it, or choose another folder with --out")
        return noted["stages"]

    def _inputs(self) -> str:
        """A digest of what determines the results: our code except that of the report, the recipe, and the settings of this demo."""
        root = HERE.parents[1]
        folders = (root / name for name in ("critic_r1_verl", "data_prep", "recipe", "examples/digits"))
        files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".txt", ".yaml")]
        digest = hashlib.sha256(repr((self.random_labels, str(self.base_from))).encode())
        for file in sorted(files):
            if "report" not in file.parts:
                digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
        return digest.hexdigest()

    def _critic_r1(self, log: str, *words: str) -> None:
        self._call(log, "-m", "critic_r1_verl.cli", *words)

    def _call(self, name: str, *command: str) -> None:
        """Run a command with its output in <out>/<name>.log. SystemExit, with the last lines of the output, if it fails."""
        log = self.out / f"{name}.log"
        with log.open("w", encoding="utf-8") as stream:
            status = subprocess.run([sys.executable, *command], stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
        if status:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise SystemExit(f"{tail}\ncritic-r1: {name} failed with status {status}; the whole output is in {log}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="the folder of the demo (default: %(default)s)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--random-labels", action="store_true", help="run the control: training labels are drawn at random")
    parser.add_argument("--base-from", type=Path, metavar="DIR", help="folder of another demo, whose base and its measurement are copied")
    parser.add_argument("--control", type=Path, metavar="RUN", help="eval/trained folder of the control, to include it in the report")
    arguments = parser.parse_args()
    end_with_make()
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return Demo(arguments.out, arguments.random_labels, arguments.base_from, arguments.control).run(arguments.until)


if __name__ == "__main__":
    sys.exit(main())
