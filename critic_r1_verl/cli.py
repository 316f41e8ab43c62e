# SPDX-License-Identifier: Apache-2.0
"""critic-r1: parse the flags, call one function each, and say in one line what went wrong."""

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl import devices
from critic_r1_verl.training import launch
from critic_r1_verl.training.compose import compose

if TYPE_CHECKING:
    from critic_r1_verl.engines.base import Engine
    from critic_r1_verl.evaluate import Settings

DEBUG = "CRITIC_R1_DEBUG"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after an error, 130 after Ctrl-C, or that of the training."""
    arguments = parse(argv)
    launch.end_with_make()
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        print(f"critic-r1: {_message(error)}", file=sys.stderr)
        return 1


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        text = f"{error}; install what is missing with `make setup`"
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="critic-r1", description="LLaVA-Critic-R1 on verl: check, train, export, measure, report.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("--recipe", default="critic_r1", metavar="NAME", help="a file of recipe/ (default: %(default)s)")
    recipe.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for verl.trainer.main_ppo")

    doctor = commands.add_parser("doctor", parents=[recipe], help="say what is wrong before a long run finds out; exit status 1 if fatal")
    doctor.add_argument("--json", action="store_true", help='print a JSON list of {"level", "what", "remedy"}')
    doctor.add_argument("--clean", action="store_true", help="first end and remove what earlier runs left behind")
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", parents=[recipe], help="check, then train; the same command resumes a run that was cut short")
    train.add_argument(
        "--log", type=Path, metavar="FILE", help="append the run's output to FILE (default: training.log beside its checkpoints)"
    )
    train.set_defaults(run=_train)

    tiny = commands.add_parser("tiny", help="build the embedded world's small base and teach it")
    tiny.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with lessons.jsonl")
    tiny.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model, as a Hugging Face folder")
    tiny.set_defaults(run=_tiny)

    export = commands.add_parser("export", help="turn a checkpoint into a Hugging Face folder")
    export.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT_DIR", help="a global_step_N folder, or an experiment's for its last one"
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(run=_export)

    measure = commands.add_parser("measure", help="judge held-out pairs, answer held-out questions, select among the answers")
    measure.add_argument("--model", type=Path, required=True, metavar="DIR")
    measure.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the held-out records")
    measure.add_argument("--out", type=Path, required=True, metavar="DIR")
    measure.add_argument("--name", help="DIR/NAME_judgements.jsonl and so on are written (default: the model folder's name)")
    measure.set_defaults(run=_measure)

    engine = _engine_flags()
    evaluate = commands.add_parser("eval", parents=[engine], help="judge benchmarks in both orders and score them; a killed run goes on")
    evaluate.add_argument(
        "--benchmark",
        action="append",
        required=True,
        metavar="B[:WHERE]",
        help="its name (vl_rewardbench, ...) and the hub id, folder or file to read it from (none: its own hub id), "
        "or a .jsonl or .parquet file of pairs; may be repeated",
    )
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/<benchmark>/ is written, and continued")
    evaluate.add_argument(
        "--repeats", type=int, default=1, metavar="K", help="judge each order K times, with a seed each; the majority counts"
    )
    evaluate.add_argument("--limit", type=int, default=0, metavar="N", help="only N pairs of each benchmark, drawn by hash")
    evaluate.add_argument("--json", action="store_true", help="print the list of scores as JSON, shares in [0, 1]")
    evaluate.set_defaults(run=_eval)

    judge = commands.add_parser("judge", parents=[engine], help="judge one pair in both orders and show the reasoning")
    judge.add_argument(
        "--image", type=Path, action="append", required=True, metavar="FILE", help="may be repeated, in the order of the question"
    )
    judge.add_argument("--question", required=True, metavar="TEXT")
    judge.add_argument("--response", action="append", required=True, metavar="TEXT", help="twice: the first and the second")
    judge.add_argument("--json", action="store_true", help="print the verdict and both judgements as JSON")
    judge.set_defaults(run=_judge, repeats=1, limit=0)

    score = commands.add_parser("score", help="score judgements or published results as the benchmark does, and strictly beside it")
    score.add_argument("file", type=Path, metavar="FILE", help="judgements.jsonl with records.jsonl beside it, or a published result file")
    score.add_argument(
        "--benchmark", required=True, metavar="B", help="its name (vl_rewardbench, ...), or a .jsonl or .parquet file of pairs"
    )
    score.add_argument("--json", action="store_true", help="print the scores as JSON, shares in [0, 1]")
    score.set_defaults(run=_score)

    compare = commands.add_parser("compare", help="the paired difference of two files that score reads, with interval and test")
    compare.add_argument("a", type=Path, metavar="A")
    compare.add_argument("b", type=Path, metavar="B")
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON, shares in [0, 1]")
    compare.set_defaults(run=_compare)

    report = commands.add_parser("report", help="write report.html of a finished run or of evaluated benchmarks, and print the run's table")
    report.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    report.add_argument("--control", type=Path, metavar="METRICS", help="metrics.json of a run with random labels, shown beside")
    report.set_defaults(run=_report)

    arguments, rest = parser.parse_known_args(argv)
    # argparse ends a list of positionals at the first flag; overrides may stand on both sides of one.
    if unknown := [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _engine_flags() -> argparse.ArgumentParser:
    """The flags of what judges: a model in this process, or a server."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--model", default="", metavar="M", help="a model's folder or hub id; with --endpoint, as the server calls it")
    flags.add_argument("--template", default="", metavar="T", help="prompt: a name of critic_r1_verl/prompts, or a text file")
    flags.add_argument("--max-tokens", type=int, default=2048, metavar="N", help="of a judgement (default: %(default)s)")
    flags.add_argument("--temperature", type=float, metavar="T", help="default: 0, or 1 with --repeats")
    flags.add_argument("--top-p", type=float, default=1.0, metavar="P")
    flags.add_argument("--seed", type=int, default=0, metavar="N", help="of the first repeat; the others follow it")
    flags.add_argument(
        "--think-tags", nargs=2, default=("<think>", "</think>"), metavar=("OPEN", "CLOSE"), help="how the model marks its thought"
    )
    here = flags.add_argument_group("in this process (vLLM)")
    here.add_argument("--max-model-len", type=int, metavar="N", help="tokens of prompt and text together (default: the model's)")
    here.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of one copy of the model")
    here.add_argument("--data-parallel", type=int, metavar="N", help="copies of the model (default: as many as there are GPUs for)")
    server = flags.add_argument_group("on a server")
    server.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible API, as http://localhost:8000/v1; key in OPENAI_API_KEY")
    server.add_argument("--in-flight", type=int, default=64, metavar="N", help="requests at once (default: %(default)s)")
    server.add_argument("--tries", type=int, default=8, metavar="N", help="of a request that the transport loses (default: %(default)s)")
    server.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="of one request (default: %(default)s)")
    server.add_argument("--body", type=json.loads, default={}, metavar="JSON", help="more keys of each request; null leaves one out")
    return flags


def _doctor(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import supervise
    from critic_r1_verl.training import doctor

    if arguments.clean:
        for leftover in supervise.leftovers():
            supervise.reap(leftover.run)
            pids = ", ".join(str(pid) for pid, _ in leftover.processes) or "none"
            print(f"cleaned up after run {leftover.run}: processes {pids}, {len(leftover.segments)} segment(s)", file=sys.stderr)
    findings = doctor.examine(arguments.recipe, arguments.overrides)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        doctor.show(findings)
    return int(doctor.has_fatal(findings))


def _train(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.training import doctor, export

    overrides = _for_this_machine(arguments.overrides)
    findings = doctor.examine(arguments.recipe, overrides)
    if problems := [finding for finding in findings if finding.level != "ok"]:
        doctor.show(problems, stderr=True)
    if doctor.has_fatal(findings):
        print("critic-r1: not started; `critic-r1 doctor` with the same arguments shows every check", file=sys.stderr)
        return 1
    config = compose(arguments.recipe, overrides)
    doctor.claim(config)
    folder = Path(config.trainer.default_local_dir)
    steps: list[dict] = []
    status = launch.train(arguments.recipe, overrides, log_path=arguments.log or folder / "training.log", on_step=steps.append)
    if status:
        return status
    scores = [line for line in steps if "critic/score/mean" in line["data"]]
    if scores:
        print(f"step {scores[-1]['step']}: mean score {scores[-1]['data']['critic/score/mean']:.3f}")
    else:
        print("no step was left to train")
    checkpoint = export.latest_step(folder) if (folder / doctor.TRACKER).is_file() else None
    print(f"checkpoint: {checkpoint or f'none was saved (trainer.save_freq={config.trainer.save_freq})'}")
    return 0


def _for_this_machine(overrides: list[str]) -> list[str]:
    """The overrides as they stand or, where there is no GPU and none was asked for, with the small base on the CPU, said in one line."""

    cpu_override = "+recipe/hardware=cpu"
    keys = {word.lstrip("+").split("=", 1)[0]: word for word in overrides}
    asks_for_gpus = "trainer.device" in keys or keys.get("recipe/hardware", cpu_override) != cpu_override
    if os.environ.get("VERL_PLATFORM") or os.environ.get("RAY_ADDRESS") or asks_for_gpus or devices.gpu_count():
        return overrides
    added = [word for key, word in (("recipe/base", "+recipe/base=tiny"), ("recipe/hardware", cpu_override)) if key not in keys]
    os.environ["VERL_PLATFORM"] = "cpu"
    print(f"no GPU here: training the small base on the embedded digits, as if by VERL_PLATFORM=cpu {' '.join(added)}".rstrip(), flush=True)
    return added + overrides


def _tiny(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from critic_r1_verl import tiny

    lessons = arguments.data / "lessons.jsonl"
    if not lessons.is_file():
        raise ValueError(f"{lessons}: no such file; `make prep` writes the lessons of the embedded digits")
    texts: list[str] = []
    for number, line in enumerate(lessons.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            texts += [row["prompt"].removeprefix("<image>"), row["response"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{lessons}:{number}: not a lesson ({type(error).__name__}: {error}); run `make prep` again") from error
    teaching = tiny.Teaching()
    columns = ("teaching", BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as untaught, Progress(*columns, console=Console(stderr=True)) as progress:
        tiny.build(texts, Path(untaught))
        task = progress.add_task("teaching", total=teaching.steps, loss=float("nan"))
        tiny.teach(lessons, Path(untaught), arguments.out, teaching, lambda step, loss: progress.update(task, completed=step, loss=loss))
    print(f"small base: {arguments.out}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.training import export

    export.export(arguments.checkpoint, arguments.out)
    print(f"model: {arguments.out}")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import measure
    from critic_r1_verl.engines.vllm import VllmEngine
    from critic_r1_verl.training import experiment

    for file in (arguments.model / "config.json", arguments.data / "test_pairs.jsonl", arguments.data / "test_questions.jsonl"):
        # Before the model is loaded.
        if not file.is_file():
            raise ValueError(f"{file}: no such file; --model is the folder of a model, --data that of held-out records (`make prep`)")
    if not os.environ.get("VERL_PLATFORM") and not devices.gpu_count():
        os.environ["VERL_PLATFORM"] = "cpu"
        print("no GPU here: measuring on the CPU", flush=True)
    name = arguments.name or experiment.base_name(str(arguments.model))
    for key, estimate in measure.measure(VllmEngine(arguments.model), arguments.data, arguments.out, name).items():
        low, high = estimate["ci95"]
        print(f"{key:<24} {estimate['value']:.3f}  [{low:.3f}, {high:.3f}]  n = {estimate['n']}")
    return 0


def _engine(arguments: argparse.Namespace) -> tuple["Engine", dict[str, Any]]:
    """What judges, and what of it belongs to the settings of a run."""
    if arguments.endpoint:
        from critic_r1_verl.engines.openai_client import OpenAIEngine

        if not isinstance(arguments.body, dict):
            raise ValueError(f"--body {arguments.body!r}: not a JSON object")
        options = {"in_flight": arguments.in_flight, "tries": arguments.tries, "timeout_seconds": arguments.timeout}
        return OpenAIEngine(arguments.endpoint, arguments.model, body=arguments.body, **options), {
            "kind": "endpoint",
            "body": arguments.body,
        }
    if not arguments.model:
        raise ValueError("--model is missing: a model's folder or hub id, or --endpoint URL for a server")
    if not (Path(arguments.model) / "config.json").is_file() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", arguments.model):
        raise ValueError(f"--model {arguments.model}: neither a folder with a model's config.json nor a hub id (owner/name)")

    num_gpus = devices.gpu_count()
    if not os.environ.get("VERL_PLATFORM") and not num_gpus:
        os.environ["VERL_PLATFORM"] = "cpu"
        print("no GPU here: judging on the CPU", file=sys.stderr, flush=True)
    copies = arguments.data_parallel or max(1, num_gpus // arguments.tensor_parallel)
    options = {"max_model_len": arguments.max_model_len, "tensor_parallel": arguments.tensor_parallel}
    from critic_r1_verl.engines.pool import EnginePool
    from critic_r1_verl.engines.vllm import VllmEngine

    generator = EnginePool(copies, arguments.model, **options) if copies > 1 else VllmEngine(arguments.model, **options)
    return generator, {"kind": "vllm", "max_model_len": arguments.max_model_len}


def _settings(arguments: argparse.Namespace) -> "Settings":
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.evaluate import Settings

    heat = arguments.temperature if arguments.temperature is not None else float(arguments.repeats > 1)
    sampling = Sampling(arguments.max_tokens, temperature=heat, top_p=arguments.top_p, seed=arguments.seed)
    opening, closing = arguments.think_tags
    return Settings(sampling, arguments.template, arguments.repeats, (opening, closing), arguments.limit)


def _eval(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from critic_r1_verl import evaluate
    from critic_r1_verl.scoring import score as scores

    settings = _settings(arguments)
    settings.protocol([])
    places = evaluate.places(arguments.benchmark, arguments.out)
    results = []
    with ExitStack() as held:
        # Before the model is loaded, which takes longer.
        loaded = [(place, held.enter_context(evaluate.loaded(place, settings))) for place in places]
        generator, engine = _engine(arguments)
        for place, records in loaded:
            results.append(evaluate.evaluate(generator, place, records, settings, engine))
            if not arguments.json:
                scores.show(results[-1])
                print(f"{place.folder}\n")
    if arguments.json:
        print(json.dumps(results, indent=2))
    elif len(results) > 1:
        evaluate.show_summary(results)
    return 0


def _judge(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import evaluate

    if len(arguments.response) != 2:
        raise ValueError(f"--response is given {len(arguments.response)} time(s): give the two responses, each with its --response")
    if missing := [file for file in arguments.image if not file.is_file()]:
        raise ValueError(f"{missing[0]}: no such image file")
    settings = _settings(arguments)
    settings.protocol([])
    generator, _ = _engine(arguments)
    first, second = arguments.response
    result = evaluate.judge_one(generator, arguments.image, arguments.question, (first, second), settings)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        evaluate.show_one(result)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.scoring import score as scores

    result = scores.score_file(arguments.file, arguments.benchmark)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        scores.show(result)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.scoring import score as scores

    result = scores.compare_files(arguments.a, arguments.b)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        scores.show_comparison(result)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import report

    page = report.build(arguments.run_dir, control=arguments.control)
    if (arguments.run_dir / "metrics.json").is_file():
        metrics = json.loads((arguments.run_dir / "metrics.json").read_text(encoding="utf-8"))
        report.print_table(metrics, json.loads(arguments.control.read_text(encoding="utf-8")) if arguments.control else None)
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
