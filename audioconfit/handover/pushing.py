"""Onto the hub: an exported folder as a model repository of huggingface.co, or of what HF_ENDPOINT names."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from audioconfit.corpora import hub
from audioconfit.errors import InputError


def check(name: str) -> None:
    """InputError: `name` is no ORG/NAME, or there is no token. Asks no network."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise InputError("--push takes ORGANISATION/NAME, of letters, digits, '-', '_' and '.'.")
    if not huggingface_hub.get_token():
        raise InputError(
            f"--push {name}: there is no token; run `hf auth login`, or set HF_TOKEN to one that may write "
            f"({hub.endpoint()}/settings/tokens)."
        )


def push(folder: Path, name: str) -> str:
    """Every file of `folder` in one commit of the repository `name`, made (public, unless the organisation has it
    otherwise) where it is not there; its address. Files that the repository has beside them stay.

    InputError: the hub refuses, or cannot be reached.
    """
    api = huggingface_hub.HfApi(endpoint=hub.endpoint())
    try:
        made = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported by AudioConFit")
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = {401: "the token is not valid", 403: "the token may not write there"}.get(status, f"status {status}")
        raise InputError(_kept(folder, name, f"The hub refuses {name}: {why}")) from None
    except (*hub.FAILURES, RuntimeError) as error:  # the last one wraps what ended an upload in a thread
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
        raise InputError(_kept(folder, name, f"The hub cannot be reached ({reason})")) from None
    return str(made)


def _kept(folder: Path, name: str, why: str) -> str:
    return f"{why}. The export is in {folder}; later: hf upload {name} {folder}."
