# SPDX-License-Identifier: Apache-2.0
"""Uploads an exported model to the hub (HF_ENDPOINT, HF_TOKEN or the token of `hf auth login`). Each request is made once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md")
"""What an exported folder holds; whatever else lies there stays there."""


def open_repo(repo: str, *, public: bool) -> str:
    """Make sure that the model repository exists, private unless public is asked for, and may be written to; returns its address.

    ValueError, in one line: no token, no right, no such name, no network, or a repository that is public already without being asked for.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError(f"--push {repo}: there is no token for the hub; run `hf auth login`, or set HF_TOKEN to one that may write")
    with _one_line(repo):
        url = HfApi().create_repo(repo, private=not public, exist_ok=True)
        if not public and not HfApi().model_info(url.repo_id).private:
            raise ValueError(f"--push {repo}: this repository is public; say --public if the model may be seen by all, or name another one")
    return str(url)


def upload(folder: Path, repo: str) -> None:
    """Upload an exported folder, in one commit where the hub allows it. ValueError as for open_repo."""
    from huggingface_hub import HfApi

    with _one_line(repo):
        HfApi().upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(FILES), commit_message="Upload by critic-r1 export")


@contextlib.contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Errors of the hub and of the way there as one line that says what to do."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"--push {repo}: not the name of a repository (OWNER/NAME): {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedies = {
            401: "the hub does not accept the token; run `hf auth login` again, or set HF_TOKEN to a valid one",
            403: "the token may not write there; use one with the right to write, and an owner that it belongs to",
            404: "the hub does not know it, or the token may not see it; check the owner's name and the token's rights",
        }
        remedy = remedies.get(status, f"the hub says: {error.server_message or error}")
        raise ValueError(f"--push {repo}: {remedy} (status {status} of {constants.ENDPOINT})") from error
    except OfflineModeIsEnabled as error:
        raise ValueError(f"--push {repo}: HF_HUB_OFFLINE forbids it; unset it, or upload from another machine") from error
    except httpx.HTTPError as error:
        raise ValueError(f"--push {repo}: {constants.ENDPOINT} cannot be reached ({error}); check the network and HF_ENDPOINT") from error
    except RuntimeError as error:
        # How huggingface_hub and hf_xet tell that one of the files was not taken.
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ValueError(f"--push {repo}: the upload broke off ({reason}); the same command goes on with what is missing") from error
