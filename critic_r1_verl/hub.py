# SPDX-License-Identifier: Apache-2.0
"""The one place through which models and data sets come from the hub, or from its cache.

A name that is a folder is used as it is, and a repository that is complete in the cache is used without any request. Otherwise stderr says
what will be downloaded and how large it is, before huggingface_hub downloads it. Pickled weights and Python code are left on the hub.
"""

import errno
import json
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from critic_r1_verl import foreign

Kind = Literal["model", "dataset"]

PROCESSOR = ("*.json", "*.txt", "*.jinja")
"""The files of a tokenizer and processor."""
# Weights in other formats than safetensors, and code; the weights of these are pickles or copies for other frameworks.
_LEFT = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.py")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# huggingface_hub sets no limit for the look-up of a host with many addresses, of which each may be tried for the whole timeout.
_ANSWER_SECONDS = 5.0
_LISTING_SECONDS = 60.0
# A file that was broken off starts again (huggingface_hub since 1.18, pull request 4228), so a kill loses all that were on their way.
_MOST_FILES, _MOST_BYTES = 8, 8e9


@dataclass(frozen=True, slots=True)
class Listing:
    """What the hub says of a repository: the commit of the revision, and the size in bytes of each file that is wanted."""

    name: str
    kind: Kind
    revision: str
    commit: str
    sizes: dict[str, int]


def is_name(text: str) -> bool:
    """Whether a text has the form of a hub id, owner/name."""
    return bool(_NAME.fullmatch(text)) and ".." not in text and "--" not in text


def fetch(name: str, what: str, *, kind: Kind = "model", revision: str = "", files: Sequence[str] = ()) -> Path:
    """The folder of a model or data set: `name` itself if it is a folder, else the repository in the cache, downloaded if it is not there.

    what: what the user named it by, which begins each message, such as "--base". revision: branch, tag or commit; "" for main. files: glob
    patterns of the files that are needed; by default all but pickled weights and code. ValueError, one line with remedy, if there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_name(name):
        raise ValueError(f"{what} {name}: no such file or folder, and no hub id (owner/name); correct it")
    if found := cached(name, kind=kind, revision=revision, files=files):
        return found
    import huggingface_hub

    try:
        listing = ask(name, what, kind=kind, revision=revision, files=files)
    except ValueError:
        # A cache of single files, or of another version of huggingface_hub, does not tell whether it is complete.
        if found := _snapshot(name, kind, revision, files):
            return found
        raise
    announce(listing, listing.sizes, what)
    with errors(name, what, kind=kind, revision=revision):
        folder = huggingface_hub.snapshot_download(
            name,
            repo_type=kind,
            revision=revision or None,
            allow_patterns=list(files) or None,
            ignore_patterns=_left(kind),
            max_workers=at_a_time(listing.sizes.values()),
        )
    return Path(folder)


def cached(name: str, *, kind: Kind = "model", revision: str = "", files: Sequence[str] = ()) -> Path | None:
    """The folder of a repository in the cache if all files that fetch() would download are there, else None; without any request."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    folder = _snapshot(name, kind, revision, files)
    if folder:
        try:
            get_cached_repo_tree(name, repo_type=kind, revision=revision or None)
        except CachedRepoTreeNotFoundError:
            # huggingface_hub did not keep the list of files, so only the weights of a model can be counted.
            return folder if kind == "model" and not files and _has_weights(folder) else None
    return folder


def ask(name: str, what: str, *, kind: Kind = "model", revision: str = "", files: Sequence[str] = ()) -> Listing:
    """Ask the hub for the files of a repository, and their sizes. Arguments and errors as for fetch(); nothing is downloaded."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    with errors(name, what, kind=kind, revision=revision):
        _wait_for_answer()
        read = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
        info = read(name, revision=revision or None, files_metadata=True, timeout=_LISTING_SECONDS)
        if info.gated:
            try:
                HfApi().auth_check(name, repo_type=kind)
            except HfHubHTTPError as error:
                # A mirror may not know this question; it then refuses the files themselves.
                if isinstance(error, GatedRepoError):
                    raise
    every = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    sizes = {file: size for file, size in every.items() if _matches(file, files or ("*",)) and not _matches(file, _left(kind))}
    if kind == "model" and not files and not any(file.endswith(".safetensors") for file in sizes):
        raise ValueError(f"{what} {name}: holds no *.safetensors, and weights of other formats are not read; give another model")
    if not sizes:
        raise ValueError(f"{what} {name}: the repository holds no file to download; correct the name")
    return Listing(name, kind, revision or "main", info.sha or "", sizes)


def announce(listing: Listing, files: Iterable[str], what: str, copies: int = 1) -> None:
    """Say on stderr what of these files will be downloaded, and how large it is. ValueError if the disk has no room for it.

    copies: how often the data will be stored, each time in the size of the download.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    snapshot = cache / repo_folder_name(repo_id=listing.name, repo_type=listing.kind) / "snapshots" / listing.commit
    missing = [listing.sizes.get(file, 0) for file in files if not (snapshot / file).is_file()]
    if not missing:
        return
    size = sum(missing)
    disk = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if size * copies > (free := shutil.disk_usage(disk).free):
        times = f" {copies} times" if copies > 1 else ""
        raise ValueError(
            f"{what} {listing.name}: needs {readable(size)}{times} in {cache}, where {readable(free)} are free; free some (`hf cache "
            "prune` removes what broken downloads left), or set HF_HOME to a folder on a larger disk"
        )
    revision = listing.revision if listing.revision == listing.commit else f"{listing.revision} = {listing.commit[:12]}"
    number = "1 file" if len(missing) == 1 else f"{len(missing)} files"
    said = f"{what} {listing.name}: downloading {number}, {readable(size)} ({listing.kind}, {revision}) to {cache}"
    foreign.say(said, stderr=True)


def at_a_time(sizes: Iterable[int]) -> int:
    """How many files of these sizes in bytes are downloaded at the same time: the fewer, the larger the largest is."""
    return max(1, min(_MOST_FILES, int(_MOST_BYTES // max((1, *sizes)))))


@contextmanager
def errors(name: str, what: str, *, kind: Kind = "model", revision: str = "") -> Iterator[None]:
    """Turns the errors of the hub, the network and the disk into ValueErrors of one line; an error of another kind passes through."""
    try:
        yield
    except Exception as error:
        if problem := _problem(error, name, kind, revision or "main"):
            raise ValueError(f"{what} {name}: {problem}") from error
        raise


def _problem(error: Exception, name: str, kind: Kind, revision: str) -> str:
    """The first error in the chain of causes that is known, with its remedy; "" if there is none."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    again = "run the same command again, which keeps the files that are complete"
    for cause in _chain(error):
        text = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
        match cause:
            case OfflineModeIsEnabled():
                return "neither a folder nor complete in the cache, and HF_HUB_OFFLINE forbids to download it; unset that, or give a folder"
            case GatedRepoError():
                return f"the repository is gated; ask for access at {page}, then {login}"
            case RepositoryNotFoundError():
                return f"there is no such {kind} at {constants.ENDPOINT}, or it is private; correct the name, or {login}"
            case RevisionNotFoundError():
                return f"has no revision {revision!r}; {page}/tree/main lists those it has"
            case HfHubHTTPError() if cause.response.status_code in (401, 403):
                return f"the hub refuses access (HTTP {cause.response.status_code}); {login}, with an account that may read {page}"
            case HfHubHTTPError() if cause.response.status_code == 429:
                return f"the hub allows no more requests for now (HTTP 429); wait some minutes, or {login}"
            case HfHubHTTPError():
                return f"the hub at {constants.ENDPOINT} fails (HTTP {cause.response.status_code}); {again} later"
            case FileMetadataError() | json.JSONDecodeError():
                return f"{constants.ENDPOINT} does not answer as a hub does; check HF_ENDPOINT and the proxy"
            case HFValidationError():
                return "not a hub id (owner/name); correct it"
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() | TimeoutError():
                return (
                    f"the hub at {constants.ENDPOINT} cannot be reached ({text}); check network, proxy and HF_ENDPOINT, or download it "
                    f"elsewhere (`hf download {name}{' --repo-type dataset' * (kind == 'dataset')} --local-dir DIR`) and give DIR"
                )
            case httpx.TransportError() | XetDownloadError():
                return f"the download broke off ({text}); {again}"
            case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                return f"no room is left in {constants.HF_HUB_CACHE}; free some, or set HF_HOME to a folder on a larger disk"
            case PermissionError():
                return f"{text}; set HF_HOME to a folder that can be written"
            case OSError() if "Consistency check failed" in str(cause):
                return f"the download broke off (a file has another size than on the hub); {again}"
            case LocalEntryNotFoundError() if cause.__cause__ is None:
                return f"the download broke off ({text}); {again}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    yield error
    if deeper := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        yield from _chain(deeper)


def _wait_for_answer() -> None:
    """Return once the hub answers anything at all; TimeoutError if it does not within _ANSWER_SECONDS, or httpx's error."""
    from huggingface_hub import constants, get_session

    outcome: list[Exception | None] = []

    def knock() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=_ANSWER_SECONDS, follow_redirects=False)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # In a thread, because the look-up of a name cannot be interrupted.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {_ANSWER_SECONDS:g} s")
    if outcome[0]:
        raise outcome[0]


def _snapshot(name: str, kind: Kind, revision: str, files: Sequence[str]) -> Path | None:
    """The folder of a repository in the cache, unless it is known to be incomplete."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                repo_type=kind,
                revision=revision or None,
                local_files_only=True,
                allow_patterns=list(files) or None,
                ignore_patterns=_left(kind),
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _has_weights(folder: Path) -> bool:
    """Whether a folder holds each weight file that its index names, or, without an index, any weight file."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
    return all((folder / shard).is_file() for shard in shards)


def _left(kind: Kind) -> list[str]:
    return list(_LEFT) if kind == "model" else ["*.py"]


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


def readable(num_bytes: float) -> str:
    """A number of bytes in decimal units, as the hub's pages show it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
