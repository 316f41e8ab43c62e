# SPDX-License-Identifier: Apache-2.0
"""The data files at the location of a corpus, which is a hub id, a folder or a file. tables.py reads them.

Packed data files (archives.py) are unpacked into the work folder of the build. `datasets` downloads a hub id into its cache, which is
read without a request if it holds the corpus. Local files are read in place. No loading script and no pickle is run.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from critic_r1_verl import hub
from critic_r1_verl.records import path_problem
from data_prep import archives
from data_prep.tables import KINDS

_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "meta.json")
_KINDS = ", ".join((*KINDS, archives.ZIP, *(f".jsonl{suffix}" for suffix in archives.STREAMS)))
_SPLITS = {"train": {"train"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}


@dataclass(frozen=True, slots=True)
class File:
    """One data file, the folder to which its image paths are relative, and the zip archive that holds the file, if any."""

    path: Path
    images: Path | None
    archive: Path | None = None

    def identity(self) -> list[Any]:
        """Values that change when the file changes: path, image folder, and the size and mtime of the file, or of its archive."""
        stat = (self.archive or self.path).stat()
        return [str(self.path), str(self.images), stat.st_size, stat.st_mtime_ns]


def find(location: str, corpus: Any, images: Path | None, work: Path) -> list[File]:
    """The data files of a corpus module at a location (file, folder, hub id, or "" for the hub id of the corpus), in a fixed order.

    images: the folder of the images, if they are not beside the data. work: the folder into which unpack() will write the data files of
    archives. ValueError if there is nothing to read.
    """
    if not location:
        location = corpus.HUB or ""
        if not location:
            raise ValueError(f"--corpus {corpus.NAME}: give the file or folder, as {corpus.NAME}:PATH")
    elif Path(location).exists() or not hub.is_name(location):
        files = _local(Path(location), corpus, work)
        return [replace(file, images=images) for file in files] if images else files
    return [File(path, images) for path in _download(location, corpus)]


def unpack(files: Sequence[File]) -> None:
    """Unpack the data files that are still packed; pictures in an archive are not unpacked."""
    for file in files:
        if file.archive and not file.path.exists():
            archives.unpack(file.archive, file.path)


def _download(name: str, corpus: Any) -> list[Path]:
    what = f"--corpus {corpus.NAME}:"
    revision = corpus.REVISION if name == corpus.HUB else ""
    if files := _cached(name, corpus, revision):
        return files
    import datasets

    listing = hub.ask(name, what, kind="dataset", revision=revision)
    try:
        with hub.errors(name, what, kind="dataset", revision=revision):
            builder = datasets.load_dataset_builder(name, corpus.CONFIG, revision=listing.commit)
            # A path is hf://datasets/OWNER/NAME@COMMIT/FILE. The files of all splits of the configuration are downloaded.
            paths = [path.partition("@")[2].partition("/")[2] for split in builder.config.data_files.values() for path in split]
            # Beside the downloaded files, `datasets` keeps their rows in Arrow files of about the same size.
            hub.announce(listing, paths, what, copies=2)
            builder.download_and_prepare()
            loaded = builder.as_dataset(split=corpus.SPLIT)
    # The parsers of `datasets` raise errors of many kinds, and the remedy is the same for all. A ValueError may be one of hub's.
    except Exception as error:
        if str(error).startswith(what):
            raise
        raise ValueError(
            f"{what} `datasets` cannot load {name}: {type(error).__name__}: {' '.join(str(error).split()):.300}; download it "
            f"(hf download {name} --repo-type dataset --local-dir DIR), unpack its archives, and give {corpus.NAME}:DIR"
        ) from error
    return _files(loaded)


def _cached(name: str, corpus: Any, revision: str) -> list[Path]:
    """The files of a corpus that `datasets` has in its cache, at this commit if one is given; empty if it has none. No request is made."""
    import datasets

    offline, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    # The only way to read the cache alone; the warning that the hub was not asked is no news then.
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()
    try:
        files = _files(datasets.load_dataset(name, corpus.CONFIG, split=corpus.SPLIT))
    except (OSError, ValueError):
        return []
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
        datasets.logging.set_verbosity(verbosity)
    # `datasets` names the folder of the files by the commit.
    return files if all(not revision or revision in path.parts for path in files) else []


def _files(loaded: Any) -> list[Path]:
    return [Path(cached["filename"]) for cached in loaded.cache_files]


def _local(location: Path, corpus: Any, work: Path) -> list[File]:
    if location.is_file():
        return _with_archives([File(location, location.parent)], work)
    if not location.is_dir():
        raise ValueError(f"--corpus {corpus.NAME}:{location}: no such file or folder, and not a hub id either")
    if files := _from_meta(location):
        return files
    folder = location / corpus.CONFIG if corpus.CONFIG and (location / corpus.CONFIG).is_dir() else location
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _METADATA and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for name in getattr(corpus, "FILES", ()):
        if paths := [path for path in found if path.name == name]:
            return [File(path, location) for path in paths]
    for kind in (*KINDS, archives.ZIP):
        if paths := _of_split([path for path in found if archives.kind(path) == kind], folder, corpus.SPLIT):
            return _with_archives([File(path, location) for path in paths], work)
    raise ValueError(f"--corpus {corpus.NAME}:{location}: no data file of the split {corpus.SPLIT!r} ({_KINDS})")


def _of_split(paths: list[Path], folder: Path, split: str) -> list[Path]:
    """The paths that name this split; if there are none, the paths that name no split."""
    words = {path: set(re.split(r"[^a-z]+", path.relative_to(folder).as_posix().lower())) for path in paths}
    wanted = _SPLITS.get(split, {split})
    others = set().union(*_SPLITS.values())
    return [path for path in paths if words[path] & wanted] or [path for path in paths if not words[path] & others]


def _from_meta(folder: Path) -> list[File]:
    """The files listed in meta.json, {name: {"root": image folder, "annotation": file}} as in MMPR; empty if there is no meta.json."""
    meta = folder / "meta.json"
    if not meta.is_file():
        return []
    try:
        entries = [(str(PurePosixPath(entry["annotation"])), str(PurePosixPath(entry["root"]))) for entry in _values(meta)]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{meta}: expected {{name: {{"root", "annotation"}}}}, as in MMPR ({type(error).__name__}: {error})') from error
    files = []
    for annotation, root in entries:
        # The paths are relative to the folder, or to its parent if they begin with the name of the folder.
        bases = [folder, folder.absolute().parent] if PurePosixPath(annotation).parts[:1] == (folder.absolute().name,) else [folder]
        base = next((base for base in bases if (base / annotation).is_file()), None)
        if not base:
            raise ValueError(f"{meta}: {annotation:.200} is not in {folder}; unpack annotations.zip there")
        for path in (annotation, root):
            if path_problem(path) or not (base / path).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{meta}: {path!r:.200} is not inside {folder}; write paths in that folder")
        if archives.kind(Path(annotation)) not in KINDS or archives.is_packed(Path(annotation)):
            raise ValueError(f"{meta}: {annotation:.200} is not a kind of file that can be read ({', '.join(KINDS)})")
        files.append(File(base / annotation, base / root))
    return files


def _values(meta: Path) -> Iterable[Any]:
    return json.loads(meta.read_text(encoding="utf-8")).values()


def _with_archives(files: list[File], work: Path) -> list[File]:
    """The files, with each packed file replaced by the data files in it. ValueError for a file of another kind."""
    result = []
    for file in files:
        if archives.kind(file.path) not in (*KINDS, archives.ZIP):
            raise ValueError(f"{file.path}: not a kind of file that can be read ({_KINDS})")
        if not archives.is_packed(file.path):
            result.append(file)
            continue
        folder = archives.folder(work, file.identity())
        result += [File(folder / name, file.images, file.path) for name in archives.names(file.path)]
    if not result:
        raise ValueError(f"{files[0].path}: holds no data file ({', '.join(KINDS)})")
    return result
