"""What outlives a process: artifacts, models and training states, written so that neither a crash nor a flipped bit goes
unnoticed.

Everything is safetensors and JSON, never pickle, so that opening a file runs no code. A folder is written beside its final
place, its manifest (the sha256 of every file) last, and is then renamed: a folder with a manifest is complete. The newest
two training states are kept, and a damaged one is passed over for the one before it, with a warning.

Where many processes train together, the first writes the artifacts; of a training state each writes the pieces it holds, and
any number of processes goes on from them (`pieces`). All of them see the same folders. The paper does not describe its
checkpoints.
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llama2_lib.config import ModelConfig
from llama2_lib.model.transformer import Transformer
from llama2_lib.training.distributed import agreed, is_main, rank, wait, world_size
from llama2_lib.training.pieces import Pieces, local, owned, region
from llama2_lib.training.randomness import randomness, set_randomness

MANIFEST, MODEL, STATE, METRICS = "manifest.json", "model.json", "state.json", "metrics.jsonl"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
KEEP_STATES = 2


class CorruptFile(ValueError):
    """A file is missing, cut short or not what was written; the message names it."""


# ------------------------------------------------------------------------------------------------- hashes and manifests

def fingerprint(*parts: object) -> str:
    """A hash (16 hex digits) of configs, numbers, strings, lists and dicts of them, the same anywhere."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part: object) -> object:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {type(part).__name__: dataclasses.asdict(part)}
    raise TypeError(f"a fingerprint takes configs and plain JSON types, got {part!r} of {type(part).__name__}")


def artifact_key(folder: str | os.PathLike) -> str:
    """The key a finished artifact was built for: the fingerprint by which the next stage knows its input."""
    return _read_json(Path(folder) / MANIFEST)["key"]


def seal(folder: Path, key: str) -> None:
    """Push every file of `folder` to the disk, then write the manifest that makes it complete."""
    files = {str(p.relative_to(folder).as_posix()): _sync(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"key": key, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync_folder(folder)


def verify(folder: Path) -> str:
    """Check every file against the manifest; return the key. CorruptFile names the first file that differs."""
    manifest = _read_json(folder / MANIFEST)
    for name, want in manifest["files"].items():
        check_file(folder / name, want)
    return manifest["key"]


def check_file(path: Path, want: dict) -> None:
    """CorruptFile unless `path` holds want["bytes"] bytes whose hash is want["sha256"]."""
    if not path.is_file():
        raise CorruptFile(f"{path} is missing")
    if path.stat().st_size != want["bytes"]:
        raise CorruptFile(f"{path} holds {path.stat().st_size} bytes, {want['bytes']} were written")
    if _sha256(path) != want["sha256"]:
        raise CorruptFile(f"{path} is not what was written: its sha256 differs")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> dict:
    """Push a file to the disk; return its size and hash."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sync_folder(folder: Path) -> None:
    """Push a folder's list of names to the disk, where the system can (Windows cannot)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise CorruptFile(f"{path} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:       # cut JSON or broken UTF-8
        raise CorruptFile(f"{path} is not readable JSON: {error}") from error


def _publish(folder: Path, key: str, partial: Path) -> None:
    """Seal `partial` and give it its final name; whatever has that name now makes way."""
    seal(partial, key)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    _sync_folder(folder.parent)


# ------------------------------------------------------------------------------------------------------------- artifacts

def artifact(folder: str | os.PathLike, key: str, build: Callable[[Path], None], alone: bool = False) -> Path:
    """`folder`, holding what build(folder) writes for `key`; built only if it is not there, complete, and of that key.

    A folder of another key (its config or inputs changed) or with a damaged file is built again. build writes into an empty
    temporary folder; only its subfolder `state`, for training states, survives a crash, and is dropped when the build
    ends. A lock keeps two runs from building the same artifact: the second waits and finds it done.

    In a group of processes all build, as a training must, and what the first writes is kept. With `alone` the first builds
    and the others wait.
    """
    folder = Path(folder)
    with _locked(folder) if is_main() else contextlib.nullcontext():
        if not agreed(is_main() and _is_current(folder, key)):
            if is_main():
                partial = _fresh_partial(folder, key)
                build(partial)
                shutil.rmtree(partial / "state", ignore_errors=True)
                _publish(folder, key, partial)
            elif not alone:
                with tempfile.TemporaryDirectory() as scratch:
                    build(Path(scratch))
        wait()
    return folder


def _locked(folder: Path) -> FileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _is_current(folder: Path, key: str) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    try:
        return verify(folder) == key
    except CorruptFile as error:
        warnings.warn(f"{error}; building {folder.name} again", stacklevel=3)
        return False


def _fresh_partial(folder: Path, key: str) -> Path:
    """The temporary folder of a build: empty but for the training states of an earlier try at the same key."""
    partial = folder.with_name(f".{folder.name}.{key[:12]}.partial")
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):
        if stale != partial:
            shutil.rmtree(stale)
    partial.mkdir(exist_ok=True)
    for item in partial.iterdir():
        if item.name != "state":
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    return partial


# -------------------------------------------------------------------------------------------------------------- metrics

def write_metrics(folder: str | os.PathLike, history: Iterable[dict]) -> None:
    """Write the records of a run to folder/metrics.jsonl, one a line."""
    (Path(folder) / METRICS).write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """The records of folder/metrics.jsonl; a NaN stays one. ValueError names file and line of what is no JSON object."""
    path, records = Path(folder) / METRICS, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        records.append(record)
    return records


# --------------------------------------------------------------------------------------------------------------- models

def trained_once(folder: str | os.PathLike, key: str, train: Callable[[], Transformer]) -> Transformer:
    """The model that `train` returns, in evaluation mode: trained the first time and kept in `folder`, read after that."""
    return load_model(artifact(folder, key, lambda place: save_model(place, train()))).eval()


def save_model(folder: str | os.PathLike, model: Transformer) -> None:
    """Write weights.safetensors, then model.json: the ModelConfig and the checksum of the weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = _save_tensors(folder / WEIGHTS, model.state_dict())
    _write_json(folder / MODEL, {"config": dataclasses.asdict(model.config), "weights": written})


def load_model(folder: str | os.PathLike) -> Transformer:
    """The Transformer that save_model wrote. CorruptFile or ValueError, naming the file, if anything does not fit."""
    folder = Path(folder)
    saved = _read_json(folder / MODEL)
    check_file(folder / WEIGHTS, saved["weights"])
    try:
        config = ModelConfig(**saved["config"])
    except (TypeError, ValueError) as error:        # a setting it does not know, or a value it refuses
        raise ValueError(f"{folder / MODEL} holds no model config of this version: {error}") from error
    model = Transformer(config)
    tensors = _load_tensors(folder / WEIGHTS)
    _check_tensors(model, {name: tuple(t.shape) for name, t in tensors.items()}, folder / WEIGHTS)
    model.load_state_dict(tensors)
    return model


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> dict:
    """Write tensors to a temporary file and rename it; return its size and hash."""
    temporary = path.with_name(path.name + ".tmp")
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(own, temporary, header)       # safetensors refuses tensors that share memory, hence the copies
    written = _sync(temporary)
    os.replace(temporary, path)
    return written


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"{path} is not a readable safetensors file: {error}") from error


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    _sync(temporary)
    os.replace(temporary, path)


def _check_tensors(model: torch.nn.Module, found: dict[str, tuple[int, ...]], path: Path) -> None:
    """ValueError listing every name and shape that does not fit the model."""
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    _same(wanted, found, f"{path} does not fit this model")


def _same(wanted: dict, found: dict, complaint: str) -> None:
    differences = [f"{name}: {found.get(name, 'missing')} in the file, {wanted.get(name, 'unknown')} here"
                   for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    if differences:
        raise ValueError(f"{complaint}: " + "; ".join(differences))


# -------------------------------------------------------------------------------------------------------- training states

@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beside the tensors: all plain JSON types."""
    step: int                    # steps done
    loader: dict                 # the loader's position
    run: dict                    # what must be the same when the run goes on
    dtype: str                   # the arithmetic so far; the run goes on with it
    history: list[dict]


def save_state(folder: str | os.PathLike, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
               state: TrainingState) -> Path:
    """Write folder/step-00000123 atomically: weights, optimiser moments, position, randomness. Keeps the newest two.

    In a group all processes call it, each with its part of the model; the folder, the first one's, is complete when it
    returns.
    """
    folder = agreed(Path(folder))
    place, partial = folder / f"step-{state.step:08d}", folder / f".step-{state.step:08d}.partial"
    if is_main():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    wait()
    for file, tensors in ((WEIGHTS, dict(model.named_parameters())), (OPTIMIZER, _moments(model, optimizer))):
        _save_tensors(partial / _piece(file), *owned(tensors))
    wait()
    if is_main():
        _write_json(partial / STATE, {**dataclasses.asdict(state), "randomness": randomness()})
        _publish(place, fingerprint(state.run), partial)
        _drop_older(folder)
    wait()
    return place


def _piece(name: str) -> str:
    """The file of this process: `name` itself if it is alone."""
    stem, dot, ending = name.partition(".")
    return name if world_size() == 1 else f"{stem}-{rank():05d}-of-{world_size():05d}{dot}{ending}"


def _drop_older(folder: Path) -> None:
    for old in states(folder)[KEEP_STATES:]:
        (old / MANIFEST).unlink(missing_ok=True)      # incomplete first, so that a crash here leaves nothing half valid
        shutil.rmtree(old)
    for stale in folder.glob(".step-*.partial"):
        shutil.rmtree(stale)


def states(folder: str | os.PathLike) -> list[Path]:
    """The training states in `folder`, newest first."""
    return sorted(Path(folder).glob("step-*"), reverse=True)


def load_state(folder: str | os.PathLike, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
               run: dict) -> TrainingState | None:
    """Restore the newest complete state into model, optimizer and the random generators; None if there is no state at all.

    A damaged state is passed over with a warning for the one before it. ValueError if every state is damaged, or if the
    state belongs to another run, listing the differences; then nothing has been changed.
    """
    place = agreed(_newest_complete(Path(folder)) if is_main() else None)
    if place is None:
        return None
    saved = _read_json(place / STATE)
    random_state = saved.pop("randomness")
    state = TrainingState(**saved)
    _same(json.loads(json.dumps(run)), state.run, f"{place} belongs to another run")
    weights, moments = (Pieces(place.glob(f"{Path(name).stem}*")) for name in (WEIGHTS, OPTIMIZER))
    _check_tensors(model, weights.shapes, place / WEIGHTS)
    _check_moments(model, moments.shapes, place / OPTIMIZER)
    with torch.no_grad():
        for name, p in model.named_parameters():
            local(p).copy_(weights.read(name, region(p)))
    _set_moments(model, optimizer, moments)
    set_randomness(random_state)
    return state


def _newest_complete(folder: Path) -> Path | None:
    found = states(folder)
    for place in found:
        try:
            verify(place)
            return place
        except CorruptFile as error:
            warnings.warn(f"{error}; trying the training state before it", stacklevel=4)
    if found:
        raise CorruptFile(f"none of the {len(found)} training states in {folder} is complete")
    return None


def _moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's tensors by parameter name: `layers.0.attention.wq.weight/exp_avg`."""
    return {f"{name}/{field}": value for name, p in model.named_parameters()
            for field, value in optimizer.state.get(p, {}).items()}


def _check_moments(model: torch.nn.Module, found: dict[str, tuple[int, ...]], path: Path) -> None:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for key, shape in found.items():
        name = key.rpartition("/")[0]
        if name not in shapes or shape not in (shapes[name], ()):
            raise ValueError(f"{path} does not fit this model: {key} is {shape} in the file, "
                             f"the parameter is {shapes.get(name, 'unknown')} here")


@torch.no_grad()
def _set_moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer, moments: Pieces) -> None:
    parameters = dict(model.named_parameters())
    for key, shape in moments.shapes.items():
        name, _, field = key.rpartition("/")
        p = parameters[name]
        value = torch.zeros_like(p) if shape else torch.zeros((), device=p.device)      # step counts are whole everywhere
        local(value).copy_(moments.read(key, region(value)))
        optimizer.state[p][field] = value
