"""Where a training run keeps its files, and the weights that it starts from.

The item table lies beside the other weights as raw float32 rows, so that a worker which holds some
of them reads no others.
"""

import io
import math
from pathlib import Path

import torch
from pyarrow.fs import FileSystem, FileType

from models.base import Ranker
from models.local_state import load_whole, without_table
from pipelines.errors import InputError
from pipelines.settings import Settings

BLOCK_BYTES = 1 << 26


def storage_folder(settings: Settings) -> str:
    """Where checkpoints live: beside a local lake unless `ray.storage` is set."""
    if settings.ray.storage:
        return settings.ray.storage
    if "://" in settings.lake_uri:
        raise InputError(
            f"the lake {settings.lake_uri} is remote: set RECKONER_RAY__STORAGE to a folder that "
            "every Ray node reaches"
        )
    return str(Path(settings.lake_uri).absolute().parent / "training")


def store_start(name: str, settings: Settings, ranker: Ranker) -> str:
    """Write the ranker's first state where every worker reads it; returns the file's address."""
    uri = f"{storage_folder(settings)}/{name}.start.pt"
    files, path = FileSystem.from_uri(uri)
    files.create_dir(path.rsplit("/", 1)[0])
    content = io.BytesIO()
    torch.save(without_table(ranker), content)
    with files.open_output_stream(path) as stream:
        stream.write(content.getbuffer())
    if ranker.item_table is not None:
        table = ranker.item_table.local.detach().float().cpu().contiguous()
        with files.open_output_stream(f"{path}.rows") as stream:
            for block in torch.split(table, _block_rows(table.shape[1])):
                stream.write(block.numpy().tobytes())
    return uri


def read_start(uri: str, ranker: Ranker) -> None:
    """Load the first state into a ranker; of its item table the rows that it holds."""
    files, path = FileSystem.from_uri(uri)
    with files.open_input_file(path) as stream:
        load_whole(ranker, torch.load(io.BytesIO(stream.read()), weights_only=True))
    table = ranker.item_table
    if table is None:
        return
    first, last = table.span
    local, width = table.local.detach()[: last - first], table.embedding_dim
    with files.open_input_file(f"{path}.rows") as stream:
        stream.seek(first * width * 4)
        for block in torch.split(local, _block_rows(width)):
            content = bytearray(stream.read(math.prod(block.shape) * 4))
            block.copy_(torch.frombuffer(content, dtype=torch.float32).view(block.shape))


def _block_rows(width: int) -> int:
    return max(BLOCK_BYTES // (4 * width), 1)


def forget(name: str, settings: Settings) -> None:
    """Delete a finished run's checkpoints and first state."""
    files, folder = FileSystem.from_uri(f"{storage_folder(settings)}/{name}")
    if files.get_file_info(folder).type == FileType.Directory:
        files.delete_dir(folder)
    for start in (f"{folder}.start.pt", f"{folder}.start.pt.rows"):
        if files.get_file_info(start).type == FileType.File:
            files.delete_file(start)
