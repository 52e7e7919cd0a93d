"""A directory to a repository of the Hugging Face hub, in one commit."""

import pathlib
import re

from jaxfm.errors import UserError

_SCHEME = "hf:"
_SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}|Bearer\s+\S+")


def check_push(uri: str) -> str:
    """Returns the repository OWNER/NAME of --push. Raises UserError for any other word, and where there is no token."""
    from huggingface_hub import get_token

    name = uri.removeprefix(_SCHEME)
    if not uri.startswith(_SCHEME) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or ".." in name or "--" in name:
        raise UserError(f"--push={uri}: must read hf:OWNER/NAME.")
    if not get_token():
        raise UserError(
            f"--push={uri}: the hub asks who you are: set HF_TOKEN to a token that may write, or run `hf auth login`."
        )
    return name


def push_folder(folder: pathlib.Path, name: str, *, public: bool, message: str) -> str:
    """Makes the repository where it is absent, and puts all files of a folder into it. Returns its address.

    The token is that of HF_TOKEN or of `hf auth login`. A repository that is there keeps its visibility, and files that
    the folder does not have.

    Raises UserError, without the token, where the hub refuses or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(library_name="jaxfm")
    try:
        address = api.create_repo(name, private=not public, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message, repo_type="model")
    except HFValidationError as error:
        raise UserError(f"--push=hf:{name}: {error}") from None
    except HfHubHTTPError as error:
        status = "" if error.response is None else f" (status {error.response.status_code})"
        said = _SECRET.sub("[token]", " ".join((error.server_message or str(error)).split()))[:300]
        raise UserError(
            f"--push=hf:{name}: the hub refused{status}: {said}. {folder} is whole: `hf upload {name} {folder}` "
            "tries again."
        ) from None
    except OSError as error:
        said = _SECRET.sub("[token]", " ".join(str(error).split()))[:300]
        raise UserError(
            f"--push=hf:{name}: the hub is out of reach: {said}. {folder} is whole: `hf upload "
            f"{name} {folder}` tries again."
        ) from None
    return str(address)
