# SPDX-License-Identifier: Apache-2.0
"""Rows per second of the data build (one worker), in one run against

- the limit: the same images decoded and encoded again, nothing else. Goal: within 1.5x of it
- verl's own filter of long prompts (data.filter_overlong_prompts), which runs the whole processor on each row. Goal: 10x as fast

    python tests/bench/bench_data.py [--rows 400] [--json]
    python tests/bench/bench_data.py --scale 1000 10000 100000 [--json]     # rows/s and peak memory of builds of so many rows

Seconds are processor seconds, so that a busy machine changes little. Images are JPEGs of 800 x 600 pixels that weigh what photographs do
(40 x 40 pixels for --scale, where the rest of the build is what grows), within the limits, so that the build keeps their bytes; the base is
the small one, with its own processor. The build includes its fixed cost, the full processor on CHECKED_ROWS rows.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = (
    "the",
    "plate",
    "cup",
    "left",
    "right",
    "blue",
    "red",
    "table",
    "image",
    "shows",
    "two",
    "because",
    "answer",
    "correct",
    "response",
)
PIXELS = (784, 4_194_304)
MAX_PROMPT_TOKENS = 6_142


def write_corpus(folder: Path, num_rows: int, size: tuple[int, int], num_images: int) -> Path:
    """pairs.jsonl with responses of 60 words, and its images."""
    from PIL import Image

    rng = random.Random(0)
    for number in range(num_images):
        # Noise made smooth has about as many bytes a pixel as a photograph.
        noise = [Image.effect_noise((size[0] // 4, size[1] // 4), 60 + (number + channel) % 90).resize(size) for channel in range(3)]
        Image.merge("RGB", noise).save(folder / f"{number}.jpg", quality=90)
    with (folder / "pairs.jsonl").open("w") as stream:
        for number in range(num_rows):
            question, chosen, rejected = (" ".join(rng.choices(WORDS, k=length)) for length in (12, 60, 60))
            row = {"image": f"{number % num_images}.jpg", "question": f"{question} {number}?", "chosen": chosen, "rejected": rejected}
            stream.write(json.dumps(row) + "\n")
    return folder / "pairs.jsonl"


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def run_build(file: Path, out: Path, base: Path | None) -> None:
    from data_prep import build

    options = build.Options(pixels=PIXELS, base=str(base) if base else None, max_prompt_tokens=MAX_PROMPT_TOKENS)
    build.build(out, [build.Corpus(name="pairs", location=str(file))], options)


def reencode(folder: Path) -> None:
    from PIL import Image

    for file in folder.glob("*.jpg"):
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            picture.convert("RGB").save(io.BytesIO(), format="JPEG", quality=95, subsampling=0)


def measure_lengths(out: Path, meter: Any) -> None:
    """What the build does about lengths, alone: both orders of each row are counted there, so count twice."""
    from PIL import Image

    from critic_r1_verl import rows

    built = rows.read_rows(out / "train.parquet")
    sizes = {path: Image.open(out / path).size for row in built for path in row["images"]}
    for row in built * 2:
        meter.tokens(row["prompt"][0]["content"], [sizes[path] for path in row["images"]])


def run_filter(out: Path, processor: Any, cache: Path) -> int:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    settings = {"filter_overlong_prompts": True, "filter_overlong_prompts_workers": None, "max_prompt_length": MAX_PROMPT_TOKENS}
    here = Path.cwd()
    # verl opens paths as they are; ours are relative to the parquet file.
    os.chdir(out)
    try:
        config = OmegaConf.create({**settings, "cache_dir": str(cache)})
        return len(RLHFDataset("train.parquet", processor.tokenizer, config, processor))
    finally:
        os.chdir(here)


def compare(num_rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        from critic_r1_verl import rows, tiny
        from data_prep import lengths

        raw, base, out = folder / "raw", folder / "base", folder / "out"
        raw.mkdir()
        tiny.build([" ".join(WORDS)] * 3, base)
        file = write_corpus(raw, num_rows, (800, 600), num_rows)
        processor = lengths.load_processor(str(base))
        # Imports and first calls cost the same however many rows there are.
        warm = folder / "warm"
        warm.mkdir()
        run_build(write_corpus(warm, 20, (80, 60), 20), folder / "warm_out", base)
        run_filter(folder / "warm_out", processor, folder / "cache")
        spent = {"build": seconds(lambda: run_build(file, out, base)), "limit": seconds(lambda: reencode(raw))}
        kept: list[int] = []
        num_train = len(rows.read_rows(out / "train.parquet"))
        spent["filter"] = seconds(lambda: kept.append(run_filter(out, processor, folder / "cache"))) * num_rows / num_train
        assert kept == [num_train], "the build measured, so verl's filter finds nothing left to drop"
        meter = lengths.meter(processor, folder)
        spent["lengths"] = seconds(lambda: measure_lengths(out, meter)) * num_rows / num_train
    return {
        "rows": num_rows,
        **{f"{name}_rows_per_second": round(num_rows / used, 1) for name, used in spent.items()},
        "build_over_limit": round(spent["build"] / spent["limit"], 2),
        "filter_over_build": round(spent["filter"] / spent["build"], 1),
        "filter_over_lengths": round(spent["filter"] / spent["lengths"], 1),
    }


def scale(num_rows: int, *, with_lengths: bool) -> dict[str, float]:
    """One build in a process of its own, whose peak memory is that build's alone."""
    command = [sys.executable, __file__, "--one", str(num_rows), *(["--with-lengths"] if with_lengths else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def one(num_rows: int, *, with_lengths: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = None
        if with_lengths:
            from critic_r1_verl import tiny

            base = folder / "base"
            tiny.build([" ".join(WORDS)] * 3, base)
        file = write_corpus(folder, num_rows, (40, 40), num_rows // 10)
        used = seconds(lambda: run_build(file, folder / "out", base))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": num_rows, "seconds": round(used, 1), "rows_per_second": round(num_rows / used, 1), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--scale", type=int, nargs="+", metavar="N")
    parser.add_argument("--with-lengths", action="store_true", help="--scale: measure lengths too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, with_lengths=arguments.with_lengths)))
        return
    if arguments.scale:
        results = [scale(num_rows, with_lengths=arguments.with_lengths) for num_rows in arguments.scale]
    else:
        results = [compare(arguments.rows)]
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*([""] * (1 + len(results))), title="Data build, one worker, processor seconds", show_header=False)
    for name in results[0]:
        table.add_row(name.replace("_", " "), *(f"{result[name]:,}" for result in results))
    Console().print(table)


if __name__ == "__main__":
    main()
