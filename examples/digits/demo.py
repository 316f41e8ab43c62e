# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end, on the embedded world: `make demo`.

Stages, each a command that a user could type: prepare, teach the small base, measure it, train it with GRPO, export, measure again, report.
stages.json says which are done and by what code: an interrupted demo goes on where it was, and never on what other code left.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from critic_r1_verl import cli, cpu, measure, report
from critic_r1_verl.files import replacing
from critic_r1_verl.scoring import estimates
from critic_r1_verl.training import launch
from critic_r1_verl.training.compose import compose


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--random-labels", action="store_true", help="the control: training labels drawn by a coin")
    parser.add_argument("--base-from", type=Path, help="another run's folder whose base and base measurement are used again")
    parser.add_argument("--control", type=Path, help="metrics.json of the control, to stand beside this run's numbers")
    arguments = parser.parse_args()
    launch.end_with_make()
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return Demo(arguments.out, arguments.random_labels, arguments.base_from, arguments.control).run()


class Demo:
    def __init__(self, out: Path, random_labels: bool, base_from: Path | None, control: Path | None) -> None:
        self.out, self.random_labels, self.base_from, self.control = out, random_labels, base_from, control
        self.data, self.base, self.trained = out / "data", out / "base", out / "trained"
        self.seconds: dict[str, float] = {}
        self.inputs = self._inputs()

    def run(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        done = self._done()
        stages: dict[str, Callable[[], str]] = {
            "prepare": self.prepare,
            "teach": self.teach,
            "measure base": lambda: self.measure("base", self.base),
            "train": self.train,
            "export": self.export,
            "measure trained": lambda: self.measure("trained", self.trained),
            "report": self.report,
        }
        for number, (name, stage) in enumerate(stages.items(), 1):
            before = " (done before)" if name in done and name != "report" else ""
            if not before:
                start = time.monotonic()
                done[name] = {"note": stage(), "seconds": round(time.monotonic() - start, 1)}
                self._note_done(done)
            self.seconds[name] = done[name]["seconds"]
            print(f"[{number}/{len(stages)}] {name:<16} {self.seconds[name]:7.1f} s  {done[name]['note']}{before}", flush=True)
        return 0

    def _done(self) -> dict[str, dict]:
        """The stages that are done, by name; ends the demo where other code or settings did them."""
        file = self.out / "stages.json"
        if not file.is_file():
            for stale in self.out.glob("*.jsonl"):
                # Measurements go on where a file ends: it must be this demo's own.
                stale.unlink()
            return {}
        noted = json.loads(file.read_text(encoding="utf-8"))
        if noted["inputs"] != self.inputs:
            raise SystemExit(f"critic-r1: {self.out} was made by other code or settings: remove it, or choose another folder with --out")
        return noted["stages"]

    def _note_done(self, stages: dict[str, dict]) -> None:
        with replacing(self.out / "stages.json") as temporary:
            temporary.write_text(json.dumps({"inputs": self.inputs, "stages": stages}, indent=2) + "\n", encoding="utf-8")

    def _inputs(self) -> str:
        """A digest of what decides the results: our code but for the report's, the recipe, the settings of this demo."""
        root = Path(__file__).resolve().parents[2]
        files = [file for folder in ("critic_r1_verl", "data_prep", "recipe") for file in (root / folder).rglob("*") if file.is_file()]
        digest = hashlib.sha256(repr((self.random_labels, str(self.base_from))).encode())
        for file in sorted(files):
            if file.suffix in (".py", ".txt", ".yaml") and "report" not in file.parts:
                digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
        return digest.hexdigest()

    def prepare(self) -> str:
        flags = ["--random-labels"] if self.random_labels else []
        self._call("prepare", "-m", "data_prep", "build", "--corpus", "digits", "--out", str(self.data), *flags)
        manifest = json.loads((self.data / "manifest.json").read_text())
        return f"{manifest['splits']['train']['pairs']} training pairs, {manifest['companions']['test_pairs.jsonl']} held-out pairs"

    def teach(self) -> str:
        if self.base_from:
            shutil.copytree(self.base_from / "base", self.base, dirs_exist_ok=True)
            return f"base taken from {self.base_from}"
        self._call("teach", "-m", "critic_r1_verl.cli", "tiny", "--data", str(self.data), "--out", str(self.base))
        return f"{len((self.data / 'lessons.jsonl').read_text(encoding='utf-8').splitlines())} lessons"

    def measure(self, name: str, model: Path) -> str:
        if name == "base" and self.base_from:
            for kind in ("judgements", "answers", "selections"):
                shutil.copy(self.base_from / f"base_{kind}.jsonl", self.out)
            return f"measurement taken from {self.base_from}"
        self._call(
            f"measure-{name}",
            "-m",
            "critic_r1_verl.cli",
            "measure",
            "--model",
            str(model),
            "--data",
            str(self.data),
            "--out",
            str(self.out),
            "--name",
            name,
        )
        summary = estimates.summarise(*measure.load(self.out, name))
        return f"critic {summary['critic_accuracy']['value']:.1%}, policy {summary['policy_accuracy']['value']:.1%}"

    def train(self) -> str:
        if status := cli.main(["train", "--log", str(self.out / "training.log"), *self._overrides()]):
            raise SystemExit(status)
        return f"{len(read_steps(self.out / 'training.jsonl'))} GRPO steps"

    def _overrides(self) -> list[str]:
        return [
            "+recipe/base=tiny",
            "+recipe/hardware=cpu",
            f"actor_rollout_ref.model.path={self.base}",
            f"data.train_files={self.data / 'train.parquet'}",
            f"data.val_files={self.data / 'val.parquet'}",
            f"trainer.default_local_dir={self.out / 'checkpoints'}/${{trainer.experiment_name}}",
        ]

    def export(self) -> str:
        checkpoints = self.out / "checkpoints" / compose("critic_r1", self._overrides()).trainer.experiment_name
        self._call("export", "-m", "critic_r1_verl.cli", "export", str(checkpoints), "--out", str(self.trained))
        return str(self.trained)

    def report(self) -> str:
        start = time.monotonic()
        base, trained = (measure.load(self.out, name) for name in ("base", "trained"))
        numbers = {
            "base": estimates.summarise(*base),
            "trained": estimates.summarise(*trained),
            "difference": estimates.difference(base, trained),
            "stages": self.seconds,
            "setup": {
                "corpus": "scanned handwritten digits of scikit-learn, splits disjoint by scan",
                "labels": "drawn by a coin" if self.random_labels else "right",
                "steps": len(read_steps(self.out / "training.jsonl")),
                "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
                "versions": cpu.VERSIONS,
            },
        }
        # All of this stage but the drawing, which needs the file.
        self.seconds["report"] = round(time.monotonic() - start, 1)
        with replacing(self.out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        control = self.control if self.control and self.control.is_file() else None
        report.print_table(numbers, json.loads(control.read_text()) if control else None)
        return str(report.build(self.out, control=control))

    def _call(self, name: str, *command: str) -> None:
        """Run one of our own commands with its output in <out>/<name>.log; on failure show its last lines and stop."""
        log = self.out / f"{name}.log"
        with log.open("w", encoding="utf-8") as stream:
            status = subprocess.run([sys.executable, *command], stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
        if status:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise SystemExit(f"{tail}\ncritic-r1: {name} failed with status {status}; the whole output is in {log}")


def read_steps(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if "actor/lr" in line]


if __name__ == "__main__":
    sys.exit(main())
