"""Models in several GGUF files, as `llama-gguf-split` writes them: NAME-00001-of-00003.gguf and so on.

The first part has the metadata; each has `split.no` (from 0), `split.count` and `split.tensors.count` and some of the
tensors. Any part's name opens the model. Parts come from anyone, too: their number is that of the names, and no tensor
may stand in two of them.
"""

import re
from pathlib import Path

from vesalius.core.errors import UserError
from vesalius.hub.gguf.reader import GGUFFile, read_gguf
from vesalius.kernels.block_formats import BlockTensor

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def read_parts(path: Path | str) -> GGUFFile:
    """The metadata and tensors of a model that `path` is, or is a part of. UserError as `read_gguf`, and for parts that
    are missing or do not belong together."""
    path = Path(path)
    paths = paths_of_parts(path)
    if len(paths) == 1:
        return _single(read_gguf(path), path)
    if missing := [part for part in paths if not part.exists()]:
        raise UserError(
            f"{path.name} is one of {len(paths)} parts and {missing[0].name} is not beside it: fetch all of them"
        )
    files = [read_gguf(part) for part in paths]
    tensors: dict[str, BlockTensor] = {}
    for number, (part, file) in enumerate(zip(paths, files, strict=True)):
        _check(part, file, number, len(paths))
        if twice := tensors.keys() & file.tensors.keys():
            raise UserError(f"{part} has the tensor {sorted(twice)[0]!r:.80}, and so has a part before it: damaged")
        tensors |= file.tensors
    promised = files[0].metadata.get(TENSORS, len(tensors))
    if promised != len(tensors):
        raise UserError(
            f"{path}: its parts hold {len(tensors)} tensors, {TENSORS} is {promised!r:.80}: fetch them again"
        )
    return GGUFFile(files[0].metadata, tensors)


def paths_of_parts(path: Path) -> list[Path]:
    """All parts of the model, in their order, by the name of one of them; only `path` for any other name.

    >>> [part.name for part in paths_of_parts(Path("m-00002-of-00002.gguf"))]
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    match = _NAME.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return [path]
    names = (f"{match['stem']}-{i + 1:05d}-of-{match['count']}.gguf" for i in range(int(match["count"])))
    return [path.with_name(name) for name in names]


def _single(file: GGUFFile, path: Path) -> GGUFFile:
    """UserError for a part under a name that does not tell the others."""
    count = file.metadata.get(COUNT, 1)
    if count not in (0, 1):
        raise UserError(
            f"{path} is one of {count!r:.80} parts, whose names must be NAME-00001-of-0000N.gguf: give it back its name"
        )
    return file


def _check(path: Path, file: GGUFFile, number: int, count: int) -> None:
    for key, expected in ((NUMBER, number), (COUNT, count)):
        if (found := file.metadata.get(key)) != expected or isinstance(found, bool):
            raise UserError(f"{path}: {key} is {found!r:.80}, expected {expected} by its name: fetch it again")
