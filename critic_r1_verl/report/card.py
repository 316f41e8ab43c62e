# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported model, README.md, from the run's own files: its claim, its steps, its data's manifest, its measurements."""

import os
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from critic_r1_verl import __version__, data_folder
from critic_r1_verl.files import read_object, replacing
from critic_r1_verl.report.collect import read_steps
from critic_r1_verl.report.figures import HEADLINE, percent, written
from critic_r1_verl.report.page import CURVES
from critic_r1_verl.scoring.run import METRICS, Metrics, Run, runs_in
from critic_r1_verl.training import checkpoints, experiment
from critic_r1_verl.training.doctor import CLAIM

CARD = "README.md"


def write(step: Path, number: int, out: Path, *, evals: Iterable[Path] = ()) -> None:
    """Write the card into the folder of an exported model.

    step: the folder of the checkpoint that was exported, in the folder of its experiment. number: the step that it was saved at. evals:
    folders of `critic-r1 eval` with this model. ValueError for a file that cannot be read, and for measurements of another model.
    """
    from huggingface_hub import ModelCard, ModelCardData

    claim_file = step.parent / CLAIM
    claim = read_object(claim_file, "`critic-r1 train` writes it") if claim_file.is_file() else {}
    name = str(claim.get("experiment", step.parent.resolve().name))
    measured = [_metrics(run, out) for folder in evals for run in runs_in(folder)]
    manifests = [_manifest(Path(file), identity) for file, identity in claim.get("data", ())]
    card_data = ModelCardData(
        model_name=name,
        base_model=_hub_id(claim.get("base", "")),
        datasets=_datasets(manifests) or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["critic", "grpo", "verl", "llava-critic-r1"],
        eval_results=_eval_results(measured) or None,
    )
    steps = {at: data for at, data in _steps(step.parent, claim).items() if at <= number}
    card = ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        name=name,
        versions={"verl": version("verl"), "critic_r1_verl": __version__},
        training=[(key, _cell(value)) for key, value in _training(claim, number, step) if value],
        curve=_curve(steps),
        validation=_validation(steps, manifests),
        data=[_data(manifest) for manifest in manifests],
        measured=[_measurements(metrics) for metrics in measured],
        prompt=_prompt(manifests),
    )
    with replacing(out / CARD) as partial:
        partial.write_text(str(card), encoding="utf-8", newline="\n")


def _training(claim: dict[str, Any], number: int, step: Path) -> list[tuple[str, str]]:
    best = checkpoints.best(step.parent)
    chosen = ""
    if best and best.folder == step.name:
        figure = f"{percent(best.accuracy)} % of {best.num_rows} held-out rows"
        chosen = f"for the best accuracy among the saved steps, {figure}; being the best of several, that figure is too high"
    overrides = " ".join(f"`{_without_folders(word)}`" for word in claim.get("overrides", ()))
    return [
        ("step", str(number)),
        ("chosen", chosen),
        ("base", _without_folders(str(claim.get("base", "")))),
        ("recipe", str(claim.get("recipe", ""))),
        ("overrides", overrides),
        ("digest of base, data and settings", str(claim.get("digest", ""))),
    ]


def _without_folders(text: str) -> str:
    """Absolute paths by their last name alone: a card is published, and the folders of a machine are nobody's business."""
    return re.sub(r"(?<![\w.$}/:])/[^\s,\]'\"]*/(?=[^\s,\]'\"/])", "", text)


def _hub_id(model: str) -> str | None:
    """The name of a model on the hub; None for a folder."""
    return model if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists() else None


def _steps(folder: Path, claim: dict[str, Any]) -> dict[int, dict[str, Any]]:
    path = Path(claim.get("steps", folder / "training.jsonl"))
    return read_steps(path) if path.is_file() else {}


def _curve(steps: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """The first and the last step, a column each, with the curves of a report."""
    trained = [at for at, data in steps.items() if "critic/score/mean" in data]
    if not trained:
        return None
    shown = sorted({trained[0], trained[-1]})
    rows = []
    for key, title, is_share in CURVES:
        values = [steps[at].get(key) for at in shown]
        if None not in values:
            rows.append((title, [f"{percent(value)} %" if is_share else f"{value:,.1f}" for value in values]))
    return {"steps": [f"step {at}" for at in shown], "rows": rows}


def _validation(steps: dict[int, dict[str, Any]], manifests: list[tuple[Path, dict[str, Any] | None]]) -> dict[str, Any] | None:
    """The accuracies of the last validation, by source."""
    for at in reversed(steps):
        found = {key: value for key, value in steps[at].items() if re.fullmatch(r"val-(core|aux)/.*/acc/mean@1", key)}
        if found:
            known = [manifest for _, manifest in manifests if manifest]
            rows = [(f"{key.split('/', 1)[1].removesuffix('/acc/mean@1')}: right", f"{percent(value)} %") for key, value in found.items()]
            return {"step": at, "n": known[0]["splits"]["val"]["rows"] if len(known) == 1 else None, "rows": rows}
    return None


def _manifest(file: Path, identity: str) -> tuple[Path, dict[str, Any] | None]:
    """The manifest beside a training file; None where it is missing or no longer that of the run."""
    if not (file.parent / data_folder.MANIFEST).is_file() or experiment.data_identity(file) != identity:
        return file, None
    return file, data_folder.read_manifest(file.parent)


def _data(found: tuple[Path, dict[str, Any] | None]) -> dict[str, Any]:
    file, manifest = found
    if manifest is None:
        return {"said": f"{file.name}, of which nothing is known: the manifest beside it is missing, or was changed since the run started."}
    rows = [
        (
            _cell(name),
            _cell(_without_folders(str(corpus["location"]))),
            _cell(corpus["revision"]) or "not known",
            _cell(corpus["licence"]) or "not stated",
            f"{corpus['counts']['kept']:,} of {corpus['counts']['read']:,}",
        )
        for name, corpus in manifest["corpora"].items()
    ]
    return {"corpora": rows, "rows": ", ".join(f"{split}: {counts['rows']:,}" for split, counts in manifest["splits"].items())}


def _datasets(manifests: list[tuple[Path, dict[str, Any] | None]]) -> list[str]:
    """Names on the hub. Only of those does a manifest know the revision; any other location may be a local path that looks alike."""
    corpora = [corpus for _, manifest in manifests if manifest for corpus in manifest["corpora"].values()]
    return sorted({str(corpus["location"]) for corpus in corpora if corpus["revision"] and _hub_id(str(corpus["location"]))})


def _prompt(manifests: list[tuple[Path, dict[str, Any] | None]]) -> list[str] | None:
    texts = {manifest["templates"]["pair"]["text"] for _, manifest in manifests if manifest}
    return texts.pop().splitlines() if len(texts) == 1 else None


def _metrics(run: Run, out: Path) -> Metrics:
    """The metrics.json of a run folder. ValueError if another folder than out was measured."""
    metrics = read_object(run.folder / METRICS, "`critic-r1 eval` writes it, `critic-r1 score` again")
    model = Path(metrics["model"])
    if model.is_dir() and not os.path.samefile(model, out):
        raise ValueError(f"{run.folder / METRICS}: measured {model}, not {out}; give with --eval what `critic-r1 eval --model {out}` wrote")
    return metrics


def _measurements(metrics: Metrics) -> dict[str, Any]:
    rows = []
    for measure in HEADLINE:
        if found := (metrics[measure.part] or {}).get(measure.key):
            value, interval = written(measure.key, found)
            rows.append((f"{measure.title} ({measure.note})", value, interval, f"{found['n']:,}"))
    counts = metrics["counts"]
    size = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("pairs", "questions") if counts[kind])
    return {"name": metrics["name"], "size": size, "model": _without_folders(metrics["model"]), "rows": rows}


def _eval_results(measured: list[Metrics]) -> list[Any]:
    from huggingface_hub import EvalResult

    results = []
    for metrics in measured:
        for measure in HEADLINE:
            if found := (metrics[measure.part] or {}).get(measure.key):
                results.append(
                    EvalResult(
                        task_type="image-text-to-text",
                        dataset_type=metrics["benchmark"],
                        dataset_name=metrics["name"],
                        metric_type=measure.key,
                        metric_name=measure.title,
                        metric_value=round(found["value"], 4),
                        metric_args={"n": found["n"], "ci95": [round(end, 4) for end in found["ci95"]]},
                    )
                )
    return results


def _cell(value: Any) -> str:
    """A value in a cell of a table."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").strip()
