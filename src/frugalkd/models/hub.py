"""Models on the Hugging Face hub: fetched for :func:`frugalkd.load`, or pushed with a card."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frugalkd.errors import ModelError
from frugalkd.files.parsing import one_line
from frugalkd.files.writing import write_atomic
from frugalkd.models.export import saves_itself

MESSAGE = "Push model using frugalkd."
FETCHED = ("*.json", "*.safetensors")
"""Files of a repository that are fetched: no code is among them."""


def on_hub(name: str, download: bool) -> Path | None:
    """The folder in this machine's cache with the files of the model repository ``USER/NAME``,
    fetched before if ``download``; None where the cache has none, or that is not a valid name.
    Raises ModelError: it cannot be fetched."""
    if not is_repository(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        only = {"allow_patterns": list(FETCHED), "local_files_only": not download}
        return Path(snapshot_download(name, **only))
    except LocalEntryNotFoundError as error:
        if download:
            raise ModelError(f"{name} is not in the cache, and the hub does not answer") from error
        return None
    except Exception as error:  # the network fails in many ways
        raise ModelError(f"{name} cannot be downloaded from the hub: {one_line(error)}") from error


def push(
    write: Callable[[Path], Any], repo_id: str, *, token: str | None = None, **options: Any
) -> str:
    """Push what ``write`` writes into a folder, to the model repository ``repo_id`` (USER/NAME),
    which is made where it is missing; returns the URL of the commit.

    ``options``: ``private``, ``commit_message``, ``branch``, ``create_pr``, as of huggingface_hub's
    ``ModelHubMixin.push_to_hub``. Raises ModelError: that is not a valid name, or the hub refuses;
    and what ``write`` raises, before the hub is contacted.
    """
    if not is_repository(repo_id):
        raise ModelError(f"{one_line(repo_id, 100)!r} is not a repository: give USER/NAME")
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="frugalkd")
    with tempfile.TemporaryDirectory(prefix="frugalkd-") as place:
        write(Path(place))
        with _refusals(repo_id):
            api.create_repo(repo_id, private=options.get("private"), exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=place,
                commit_message=options.get("commit_message") or MESSAGE,
                revision=options.get("branch"),
                create_pr=options.get("create_pr"),
            )
    return str(getattr(done, "commit_url", done))


@contextmanager
def _refusals(repo_id: str) -> Any:
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"{repo_id} cannot be pushed to the hub: {one_line(error)}; 'hf auth login', or the "
            "variable HF_TOKEN, gives it your token"
        ) from error


def is_repository(name: str) -> bool:
    """Whether ``name`` is USER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def write_card(
    folder: Path,
    repo_id: str,
    sections: Mapping[str, str],
    *,
    license: str | None,
    tags: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write README.md, the model's card: front matter, then ``sections``, Markdown by heading ("":
    the text below the title). ``more``: fields of huggingface_hub's ModelCardData. Raises
    WriteFailed."""
    from huggingface_hub import ModelCardData

    said = ModelCardData(
        library_name="frugalkd",
        license=license or "unknown",
        tags=["frugalkd", "knowledge-distillation", *tags],
        **more,
    )
    named = (
        "The authors stated no licence." if license is None else f"`{license}`, its authors say."
    )
    parts = [f"## {heading}\n\n{text}" if heading else text for heading, text in sections.items()]
    text = "\n\n".join([f"# {repo_id.partition('/')[2]}", *parts, f"## Licence\n\n{named}"])
    front = f"---\n{said.to_yaml()}\n---\n\n"
    write_atomic(folder / "README.md", f"{front}{text}\n".encode())


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, whose cells are plain text."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(cell: object) -> str:
    text = one_line(cell, 400)
    for sign, instead in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\[")):
        text = text.replace(sign, instead)
    return text


def own_loading(model: Any, repo_id: str, weights: Path) -> str:
    """Python that loads ``model`` as :func:`.export.save_model` saved it, without frugalkd."""
    kind = type(model)
    home = kind.__module__.partition(".")[0]
    home = home if hasattr(sys.modules.get(home), kind.__name__) else kind.__module__
    lines = [f"from {home} import {kind.__name__}", ""]
    if saves_itself(model):
        lines.append(f'model = {kind.__name__}.from_pretrained("{repo_id}")')
    else:
        lines[:0] = [
            "from huggingface_hub import hf_hub_download",
            "from safetensors.torch import load_model",
        ]
        lines += [
            f"model = {kind.__name__}(...)  # as it was made for the training",
            f'load_model(model, hf_hub_download("{repo_id}", "{weights.name}"))',
        ]
    return fenced(lines)


def fenced(lines: Sequence[str]) -> str:
    """Lines of Python as Markdown."""
    return "\n".join(["```python", *lines, "```"])
