# SPDX-License-Identifier: Apache-2.0
"""Rows per second of the data build (one process), in one run against

- the limit: the same images decoded and encoded again, nothing else. Goal: within 1.5x of it
- verl's own filter of long prompts (data.filter_overlong_prompts), which runs the whole processor on each row. Goal: 10x as fast

    python tests/bench/bench_data.py [--rows 1000] [--photographs 40] [--runs 3] [--json]
    python tests/bench/bench_data.py --scale 1000 10000 100000 [--with-lengths | --of-photographs] [--json]  # and the peak of memory

Seconds are processor seconds, so that a busy machine changes little; build, limit and filter take turns. Of each number the least, the
median and the greatest of all runs are printed. Images are JPEGs of 800 x 600 pixels that weigh what photographs do, within the limits, so
that the build keeps their bytes; photographs have 3000 x 2000 and are brought within the recipe's limits, measured against the limit
alone. --scale takes images of 40 x 40 pixels, as the rest of the build is what grows. The base is the small one, whose processor is given
the pixel limits of the 7B model: with its own it would see, and the filter prepare, less than half of an image's pixels.

The build includes the full processor on CHECKED_ROWS rows, a fixed cost that build_fixed_seconds gives by itself and that 1,000 rows make
small. Outside of all measurements is what both sides pay once for any number of rows: the import of transformers and torch.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
sys.path.insert(0, str(DIGITS))

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


def see_as_7b(base: Path) -> None:
    """Give a base's processor the pixel limits of Qwen2.5-VL's: 4 and 16,384 merged patches of 28 x 28."""
    file = base / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["size"] = {"shortest_edge": 4 * 28**2, "longest_edge": 16_384 * 28**2}
    file.write_text(json.dumps(config))


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process and of those that it started and that ended."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    start = used()
    work()
    return used() - start


def run_build(file: Path, out: Path, base: Path | None, pixels: tuple[int, int] = PIXELS, num_workers: int = 1) -> None:
    from data_prep import build
    from data_prep.options import Corpus, Options

    options = Options(pixels=pixels, base=str(base) if base else None, max_prompt_tokens=MAX_PROMPT_TOKENS, num_workers=num_workers)
    build.build(out, [Corpus(converter="pairs", location=str(file))], options)


def reencode(folder: Path, size: tuple[int, int] | None = None) -> None:
    from PIL import Image

    for file in folder.glob("*.jpg"):
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            result = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC) if size else picture.convert("RGB")
            result.save(io.BytesIO(), format="JPEG", quality=95, subsampling=0)


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


def compare(num_rows: int, num_runs: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        import base as small_base

        from critic_r1_verl import tokens

        raw, base = folder / "raw", folder / "base"
        raw.mkdir()
        small_base.build([" ".join(WORDS)] * 3, base)
        see_as_7b(base)
        file = write_corpus(raw, num_rows, (800, 600), num_rows)
        processor = tokens.load_processor(str(base))
        # Imports and first calls.
        warm = folder / "warm"
        warm.mkdir()
        run_build(write_corpus(warm, 20, (80, 60), 20), folder / "warm_out", base)
        run_filter(folder / "warm_out", processor, folder / "cache")
        return [one_run(folder, file, base, processor, run) for run in range(num_runs)]


def one_run(folder: Path, file: Path, base: Path, processor: Any, run: int) -> dict[str, float]:
    from critic_r1_verl import rows, tokens

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with timed(tokens, "check") as fixed:
        spent = {"build": seconds(lambda: run_build(file, out, base)), "limit": seconds(lambda: reencode(file.parent))}
    num_rows, num_train = len(list(file.parent.glob("*.jpg"))), len(rows.read_rows(out / "train.parquet"))
    kept: list[int] = []
    # verl's filter keeps what it found: a new folder for each run.
    spent["filter"] = seconds(lambda: kept.append(run_filter(out, processor, folder / f"cache{run}"))) * num_rows / num_train
    assert kept == [num_train], "the build measured, so verl's filter finds nothing left to drop"
    meter = tokens.meter(processor, folder)
    spent["lengths"] = seconds(lambda: measure_lengths(out, meter)) * num_rows / num_train
    return {
        "rows": num_rows,
        **{f"{name}_rows_per_second": round(num_rows / used, 1) for name, used in spent.items()},
        "build_fixed_seconds": round(fixed[0], 2),
        "build_over_limit": round(spent["build"] / spent["limit"], 2),
        "filter_over_build": round(spent["filter"] / spent["build"], 1),
        "filter_over_lengths": round(spent["filter"] / spent["lengths"], 1),
    }


def compare_resized(num_rows: int, num_runs: int) -> list[dict[str, float]]:
    """Photographs that must be made smaller, in the build and not in the limit; the peer is the limit with Pillow's resize in it."""
    from PIL import Image

    from critic_r1_verl.training import recipe

    pixels = recipe.read().pixels
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "raw").mkdir()
        file = write_corpus(folder / "raw", num_rows, (3000, 2000), num_rows)
        out = folder / "out"
        run_build(file, out, None, pixels)
        size = Image.open(next((out / "images").iterdir())).size
        results = []
        for _ in range(num_runs):
            shutil.rmtree(out)
            build, limit = seconds(lambda: run_build(file, out, None, pixels)), seconds(lambda: reencode(folder / "raw"))
            resized = seconds(lambda: reencode(folder / "raw", size))
            results.append(
                {
                    "rows": num_rows,
                    "build_rows_per_second": round(num_rows / build, 1),
                    "build_over_limit": round(build / limit, 2),
                    "pillow_resize_over_limit": round(resized / limit, 2),
                }
            )
        return results


@contextmanager
def timed(module: Any, name: str) -> Iterator[list[float]]:
    """Processor seconds spent in a function of a module."""
    function, spent = getattr(module, name), [0.0]

    def measured(*arguments: Any) -> Any:
        start = time.process_time()
        try:
            return function(*arguments)
        finally:
            spent[0] += time.process_time() - start

    setattr(module, name, measured)
    try:
        yield spent
    finally:
        setattr(module, name, function)


def spread(results: list[dict[str, float]]) -> dict[str, list[float]]:
    """Least, median and greatest of each number."""
    columns = {name: sorted(result[name] for result in results) for name in results[0]}
    return {name: [values[0], values[len(values) // 2], values[-1]] for name, values in columns.items()}


def scale(num_rows: int, *, with_lengths: bool, of_photographs: bool) -> dict[str, float]:
    """One build by two workers, a process tree of its own, whose memory is summed every 50 ms, shared pages in equal parts."""
    import psutil

    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--one", str(num_rows), *(["--of-photographs"] if of_photographs else [])]
        if with_lengths:
            # In a process that ends: making the base takes as much memory as what is measured.
            base = Path(temporary) / "base"
            make = f"from pathlib import Path; import base; base.build([{' '.join(WORDS)!r}] * 3, Path({str(base)!r}))"
            subprocess.run([sys.executable, "-c", make], cwd=DIGITS, check=True, stdout=subprocess.DEVNULL)
            command += ["--base", str(base)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            tree, peak = psutil.Process(process.pid), 0
            while process.poll() is None:
                used = 0
                # A process may end between being listed and being asked.
                with suppress(psutil.Error):
                    for member in [tree, *tree.children(recursive=True)]:
                        with suppress(psutil.Error):
                            used += member.memory_full_info().pss
                peak = max(peak, used)
                time.sleep(0.05)
            assert process.stdout and process.returncode == 0
            return {**json.loads(process.stdout.read()), "peak_mib": round(peak / 2**20)}


def one(num_rows: int, base: Path | None, *, of_photographs: bool) -> dict[str, float]:
    from critic_r1_verl.training import recipe

    size, pixels = ((3000, 2000), recipe.read().pixels) if of_photographs else ((40, 40), PIXELS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = write_corpus(folder, num_rows, size, num_rows // 10)
        start = time.perf_counter()
        used = seconds(lambda: run_build(file, folder / "out", base, pixels, num_workers=2))
        passed = time.perf_counter() - start
    return {"rows": num_rows, "seconds": round(used, 1), "rows_per_second": round(num_rows / used, 1), "wall_seconds": round(passed, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--photographs", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=int, nargs="+", metavar="N")
    parser.add_argument("--with-lengths", action="store_true", help="--scale: measure lengths too")
    parser.add_argument("--of-photographs", action="store_true", help="--scale: one for every ten rows")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.base, of_photographs=arguments.of_photographs)))
        return
    if arguments.scale:
        flags = {"with_lengths": arguments.with_lengths, "of_photographs": arguments.of_photographs}
        results = [scale(num_rows, **flags) for num_rows in arguments.scale]
        found = {"scale": {name: [result[name] for result in results] for name in results[0]}}
        heads = ["" for _ in results]
    else:
        found = {
            "kept": spread(compare(arguments.rows, arguments.runs)),
            "resized": spread(compare_resized(arguments.photographs, arguments.runs)),
        }
        heads = ["least", "median", "greatest"]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    for title, columns in found.items():
        table = Table("", *heads, title=f"Data build, processor seconds: {title}")
        for name, values in columns.items():
            table.add_row(name.replace("_", " "), *(f"{value:,}" for value in values))
        Console().print(table)


if __name__ == "__main__":
    main()
