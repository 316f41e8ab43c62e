# SPDX-License-Identifier: Apache-2.0
"""Runs the whole path from data to report on the embedded world: `make demo`.

Each stage is a command that a user could type. An interrupted demo resumes, but only with the same code and settings (stages.py).
"""

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from critic_r1_verl import children, foreign, stages
from critic_r1_verl.training.compose import compose

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = ("draw", "build", "teach", "measure base", "train", "export", "measure trained", "report")
# The texts of the small model are short; a longer one only repeats itself.
TOKENS = ("--max-tokens", "64")


class Demo:
    """One demo in the folder out, with the settings of the command line."""

    def __init__(self, out: Path, random_labels: bool = False, base_from: Path | None = None, control: Path | None = None) -> None:
        self.out, self.random_labels, self.base_from, self.control = out, random_labels, base_from, control
        self.world, self.data, self.base, self.trained = (out / name for name in ("world", "data", "base", "trained"))
        self.config = {
            "code": stages.code(ROOT / "data_prep", ROOT / "recipe", HERE),
            "random_labels": random_labels,
            "base_from": str(base_from) if base_from else None,
        }

    def run(self, until: str = STAGES[-1]) -> None:
        """Run the stages that are not done, up to `until`; the report is always written again. ValueError if a stage fails."""
        named = [name.split() for name in STAGES[: STAGES.index(until) + 1]]
        wanted = {" ".join(words): partial(getattr(self, words[0]), *words[1:]) for words in named}
        stages.run(self.out, self.config, wanted, again="report")

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
        self._critic_r1("", "train", "--log", str(self.out / "training.log"), *self._overrides())
        lines = (self.out / "training.jsonl").read_text(encoding="utf-8").splitlines()
        return f"{sum('actor/lr' in line for line in lines)} GRPO steps"

    def export(self) -> str:
        name = compose("critic_r1", self._overrides()).trainer.experiment_name
        self._critic_r1("export", "export", str(self.out / "checkpoints" / name), "--out", str(self.trained))
        return str(self.trained)

    def report(self) -> str:
        base, trained = (self.out / "eval" / name for name in ("base", "trained"))
        control = ["--control", str(self.control)] if self.control else []
        training = ("--training", str(self.out / "training.jsonl"))
        files = ("--out", str(self.out / "report.html"), "--svg", str(self.out / "result.svg"))
        self._critic_r1("", "report", str(trained), "--against", str(base), *control, *training, *files)
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

    def _critic_r1(self, log: str, *words: str) -> None:
        self._call(log, "-m", "critic_r1_verl.cli", *words)

    def _call(self, log: str, *words: str) -> None:
        """Run a Python command, with its output in <out>/<log>.log or, without a name, on the terminal."""
        children.run(*words, log=self.out / f"{log}.log" if log else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="the folder of the demo (default: %(default)s)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--random-labels", action="store_true", help="run the control: training labels are drawn at random")
    parser.add_argument("--base-from", type=Path, metavar="DIR", help="folder of another demo, whose base and its measurement are copied")
    parser.add_argument("--control", type=Path, metavar="RUN", help="eval/trained folder of the control, to include it in the report")
    arguments = parser.parse_args()
    children.end_with_parent()
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        Demo(arguments.out, arguments.random_labels, arguments.base_from, arguments.control).run(arguments.until)
    except ValueError as error:
        foreign.say(f"critic-r1: {error}", stderr=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
