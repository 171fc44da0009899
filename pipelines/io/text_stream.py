"""Read text of any encoding as UTF-8, keeping undecodable bytes visible instead of failing.

A byte that is not valid in the file's encoding becomes the marker U+FDD0 (a code point that Unicode
promises never to assign) followed by `xNN`. Readers refuse the rows that hold a marker, one by one.
"""

import codecs
import io
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import fs as pa_fs

from pipelines.errors import InputError

MARKER = "\ufdd0"
CHUNK = 1 << 20
# Stands for a delimiter of several characters, which Arrow's parser does not know.
UNIT_SEPARATOR = "\x1f"


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    spoilt = error.object[error.start : error.end]
    return "".join(f"{MARKER}x{byte:02x}" for byte in spoilt), error.end


codecs.register_error("reckoner-mark", _mark)


def show_marked(text: str) -> str:
    """Write marked bytes the way a person reads them, as a backslash and xNN."""
    return text.replace(MARKER, "\\")


class TextStream(io.RawIOBase):
    """A file as UTF-8 bytes.

    Raises:
        InputError: on the first read, where the file is not text in its encoding at all.
    """

    def __init__(
        self,
        files: pa_fs.FileSystem,
        path: str,
        name: str,
        encoding: str = "utf-8",
        replace: str | None = None,
    ) -> None:
        """Open a file; `replace` is a long delimiter, turned into one control character."""
        super().__init__()
        self.name = name
        self.marked = False
        self._encoding = encoding
        self._replace = replace
        self._decoder = codecs.getincrementaldecoder(encoding)("reckoner-mark")
        self._left = b""
        self._held = ""
        self._done = False
        self._first = True
        try:
            self._file = files.open_input_stream(path, compression="detect")
        except OSError as error:
            raise InputError(f"file {path} cannot be opened: {error}") from error

    def readable(self) -> bool:
        """Say that the stream can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with UTF-8 bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._left and not self._done:
            self._left = self.text().encode()
        size = min(len(view), len(self._left))
        view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        """Close the file beneath."""
        if not self.closed:
            self._file.close()
        super().close()

    def text(self) -> str:
        """The next piece of text; empty only at the end of the file."""
        while not self._done:
            try:
                raw: bytes = self._file.read(CHUNK)
            except OSError as error:
                raise InputError(f"file {self.name} cannot be read: {error}") from error
            self._done = not raw
            if self._first:
                self._require_text(raw)
            piece = self._held + self._decoder.decode(raw, final=self._done)
            self._held = ""
            if self._first:
                piece, self._first = piece.removeprefix("\ufeff"), False
            self.marked = self.marked or MARKER in piece
            if self._replace:
                piece = self._swap(piece)
            if piece:
                return piece
        return ""

    def lines(self) -> Iterator[str]:
        """Every line without its end, the last one also where no line feed ends it."""
        rest = ""
        while piece := self.text():
            *whole, rest = (rest + piece).split("\n")
            yield from (line.removesuffix("\r") for line in whole)
        if rest:
            yield rest.removesuffix("\r")

    def _swap(self, piece: str) -> str:
        assert self._replace is not None
        piece = piece.replace(self._replace, UNIT_SEPARATOR)
        for size in range(len(self._replace) - 1, 0, -1):
            if not self._done and piece.endswith(self._replace[:size]):
                self._held = piece[-size:]
                return piece[:-size]
        return piece

    def _require_text(self, raw: bytes) -> None:
        wide = self._encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        if not wide and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(
                f"file {self.name} is UTF-16, not UTF-8: convert it, or set csv.encoding: utf-16 "
                "in a mapping file"
            )
        if not wide and b"\0" in raw:
            raise InputError(
                f"file {self.name} is not text (a zero byte at offset {raw.index(0)}): "
                "is it compressed, or of another format than its name says?"
            )
        if wide:
            return
        lines = raw.split(b"\n")
        lines = lines[:-1] or lines  # the last one may be cut
        spoilt = [line for line in lines if not _decodes(line, self._encoding)]
        if len(spoilt) * 2 > len(lines):  # fewer are refused row by row
            raise InputError(
                f"file {self.name} is not {self._encoding.upper()} ({len(spoilt)} of its first "
                f"{len(lines)} lines are not): convert it, or set csv.encoding in a mapping "
                "file, such as latin-1"
            )


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def arrow_file(stream: TextStream) -> pa.PythonFile:
    """Hand a stream to an Arrow reader."""
    return pa.PythonFile(io.BufferedReader(stream, CHUNK), mode="r")
