"""The files of a recording, read one by one: MCAP, SQLite, and the `.bag` files of ROS 1.

What a file is, its first bytes say, not its name. Files are read directly: `metadata.yaml` gives their order and nothing
else, because people edit it. Only what a file says of its own channels is believed.
"""

import importlib
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import yaml

from letocc_core.errors import DataError, show

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

LFS_POINTER = b"version "  # https://git-lfs.github.com/spec/v1
METADATA = "metadata.yaml"
MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"
ROS1_MAGIC = b"#ROSBAG V"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MOST_NAMED = 12  # names in a message
SUFFIXES = (".mcap", ".db3", ".bag")
PACKED = {  # first bytes of what a recording may be packed in, its name, and the command that unpacks it
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -d"),
    b"PK\x03\x04": ("zip", "unzip"),
}


@runtime_checkable
class Storage(Protocol):
    """One file of a recording."""

    connections: list["Connection"]

    def messages(self, connections: Collection["Connection"]) -> Iterator[tuple["Connection", int, bytes]]:
        """(connection, receive time in ns, bytes as recorded) of some connections, in the order of those times."""

    def close(self) -> None:
        """Free what it holds."""


def files_of(path: Path) -> tuple[list[Path], list[str]]:
    """The files of a recording in order, and remarks for people.

    Args:
        path: a folder, or one file of any name.

    Raises `DataError`: no such path, no file of a recording there, or one that `metadata.yaml` lists is missing.
    """
    if not path.exists():
        beside = sorted(show(p.name) for p in _beside(path) if p.is_dir() or _is_storage(p))
        near = ", ".join(beside[:MOST_NAMED] + ["..."] * (len(beside) > MOST_NAMED)) or "nothing"
        raise DataError(f"{show(path)}: no such bag; beside it: {near}")
    if path.name == METADATA:
        return files_of(path.parent)
    if path.is_file():
        return [path], _others_of_split(path)
    found = sorted((p for p in path.iterdir() if _is_storage(p)), key=_natural)
    if not found:
        inside = names(sorted({p.parent for p in path.glob("*/*") if _is_storage(p)})[:MOST_NAMED])
        raise DataError(
            f"{show(path)}: no .mcap, .db3 or .bag file in it; expected the folder that `ros2 bag record` wrote"
            + (f", such as those inside: {inside}" if inside else "")
        )
    listed, remarks = _listed(path / METADATA)
    here = {p.name: p for p in found}
    known = [here[name] for name in listed if name in here]
    missing = [name for name in listed if name not in here]
    extra = [p for p in found if p.name not in listed]
    if missing and len(extra) < len(missing):
        raise DataError(
            f"{show(path)}: metadata.yaml lists {', '.join(missing)}, which is not there; copy it from where it was "
            "recorded, or delete metadata.yaml to go on with the files that are there"
        )
    if listed and missing:
        remarks.append(f"metadata.yaml lists {', '.join(missing)}, which is not there; read instead: {names(extra)}")
    elif listed and extra:
        remarks.append(f"{names(extra)} is not listed in metadata.yaml and is not read; give it alone to read it")
    return (sorted([*known, *extra], key=_natural) if missing else known) or found, remarks


def open_storage(path: Path, temporary: Path) -> Storage:
    """Open one file.

    Args:
        temporary: folder for what has to be unpacked; the caller removes it.

    Raises `DataError` with the cause and the remedy for what is no recording or not whole.
    """
    start = _start(path)
    if start.startswith(ZSTD_MAGIC):
        path = _decompressed(path, temporary)
        start = _start(path)
    if start.startswith(SQLITE_MAGIC):
        return SqliteFile(path, temporary)
    if start.startswith(ROS1_MAGIC):
        return Ros1File(path)
    if start == MCAP_MAGIC:
        _check_end(path)
        return McapFile(path)
    for magic, (name, command) in PACKED.items():
        if start.startswith(magic):
            raise DataError(f"{show(path)}: packed with {name}; unpack it first: {command} '{show(path.name)}'")
    if start.startswith(LFS_POINTER):
        raise DataError(f"{show(path)}: a Git LFS pointer, not the file itself; fetch it: git lfs pull")
    raise DataError(
        f"{show(path)}: not a recording: it starts with {start!r}, expected MCAP, SQLite or '#ROSBAG' (an MCAP file starts "
        f"with {MCAP_MAGIC!r})"
    )


class McapFile:
    """An MCAP file, with or without chunks, summary and statistics; of any profile."""

    def __init__(self, path: Path):
        from mcap.reader import SeekingReader

        self.path = path
        self.connections: list[Connection] = []
        self._ordered = True  # without an index: by time
        self._file = path.open("rb")
        try:
            self._summary = SeekingReader(self._file).get_summary()
            channels, schemas, counts = self._contents()
        except BaseException:
            self._file.close()
            raise
        self.connections = [
            self._connection(channel, schemas.get(channel.schema_id), counts.get(number, 0))
            for number, channel in sorted(channels.items())
        ]

    def close(self) -> None:
        self._file.close()

    @property
    def _indexed(self) -> bool:
        """Whether the summary tells everything that a look-up needs."""
        summary = self._summary
        if summary is None or not summary.chunk_indexes or not summary.channels:
            return False
        inside = {number for chunk in summary.chunk_indexes for number in chunk.message_index_offsets}
        used = [channel.schema_id for channel in summary.channels.values() if channel.schema_id]
        return inside <= summary.channels.keys() and all(number in summary.schemas for number in used)

    def _contents(self) -> tuple[dict[int, Any], dict[int, Any], Counter[int]]:
        """Channels, schemas, and how many messages each channel has."""
        summary = self._summary
        statistics = summary.statistics if summary is not None else None
        if summary is not None and self._indexed and statistics is not None and statistics.channel_message_counts:
            return summary.channels, summary.schemas, Counter(statistics.channel_message_counts)
        from mcap.records import Channel, Message, Schema

        channels: dict[int, Any] = {}
        schemas: dict[int, Any] = {}
        counts: Counter[int] = Counter()
        newest = 0
        for record in self._records():
            if isinstance(record, Message):
                counts[record.channel_id] += 1
                self._ordered &= record.log_time >= newest
                newest = record.log_time
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Schema):
                schemas[record.id] = record
        return channels, schemas, counts

    def _records(self) -> Iterator[Any]:
        from mcap.stream_reader import StreamReader

        self._file.seek(0)
        return StreamReader(self._file).records

    def messages(self, connections: Collection["Connection"]) -> Iterator[tuple["Connection", int, bytes]]:
        from mcap.reader import SeekingReader

        wanted = {c.id: c for c in connections}
        if self._indexed:
            with self.path.open("rb") as file:  # of its own: several iterations may go on at a time
                for _, channel, message in SeekingReader(file, validate_crcs=True).iter_messages(
                    {c.topic for c in connections}
                ):
                    if channel.id in wanted:
                        yield wanted[channel.id], message.log_time, message.data
            return
        found = self._scanned(wanted)
        yield from found if self._ordered else sorted(found, key=lambda item: item[1])  # such as topic after topic

    def _scanned(self, wanted: dict[int, "Connection"]) -> Iterator[tuple["Connection", int, bytes]]:
        """Messages as they lie in the file."""
        from mcap.records import Message
        from mcap.stream_reader import StreamReader

        with self.path.open("rb") as file:
            for record in StreamReader(file).records:
                if isinstance(record, Message) and record.channel_id in wanted:
                    yield wanted[record.channel_id], record.log_time, record.data

    def _connection(self, channel: Any, schema: Any, count: int) -> "Connection":
        encoding = channel.message_encoding or ("ros1" if schema and schema.encoding == "ros1msg" else "cdr")
        data = schema.data if schema is not None else b""
        return _connection(
            self,
            channel.id,
            channel.topic,
            schema.name if schema is not None else "",
            schema.encoding if schema is not None else "",
            data.decode("utf-8", "replace"),
            count,
            encoding,
            channel.metadata.get("offered_qos_profiles", ""),
        )


class SqliteFile:
    """A SQLite file of rosbag2, of any version of its tables, with what its write-ahead log beside it holds."""

    def __init__(self, path: Path, temporary: Path):
        self.connections: list[Connection] = []
        self._database = _connect(path, temporary)
        try:
            tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"topics", "messages"} <= tables:
                raise DataError(
                    f"{show(path)}: a database of SQLite, but no recording: it has the tables {', '.join(sorted(tables)) or 'none'}, "
                    "expected those of rosbag2, topics and messages"
                )
            self.connections = list(self._connections())
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def messages(self, connections: Collection["Connection"]) -> Iterator[tuple["Connection", int, bytes]]:
        wanted = {c.id: c for c in connections}
        places = ", ".join("?" * len(wanted))
        rows = self._database.execute(
            f"SELECT topic_id, CAST(timestamp AS INTEGER), data FROM messages WHERE topic_id IN ({places}) "
            "ORDER BY timestamp, id",
            tuple(wanted),
        )
        for topic, stamp_ns, data in rows:
            yield wanted[topic], stamp_ns, data if isinstance(data, bytes) else b""

    def _connections(self) -> Iterator["Connection"]:
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        definitions = {}
        if list(self._database.execute("PRAGMA table_info(message_definitions)")):
            rows = self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
            definitions = {kind: (encoding, text) for kind, encoding, text in rows}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        counts = dict(self._database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        for number, topic, kind, encoding, profiles in list(
            self._database.execute(f"SELECT id, name, type, serialization_format, {qos} FROM topics ORDER BY id")
        ):
            about = definitions.get(kind, ("", ""))
            yield _connection(self, number, topic, kind, *about, counts.get(number, 0), encoding or "cdr", profiles)


class Ros1File:
    """A `.bag` file of ROS 1."""

    def __init__(self, path: Path):
        from rosbags.rosbag1 import Reader
        from rosbags.rosbag1.reader import ReaderError

        if path.suffix == ".active":
            raise DataError(_unfinished(path))
        self._reader = Reader(path)
        try:
            self._reader.open()
        except ReaderError as error:
            if "index" in str(error).lower():
                raise DataError(_unfinished(path)) from error
            raise
        self.connections = [c._replace(owner=self) for c in self._reader.connections]

    def close(self) -> None:
        self._reader.close()

    def messages(self, connections: Collection["Connection"]) -> Iterator[tuple["Connection", int, bytes]]:
        wanted = {c.id: c for c in connections}
        for connection, stamp_ns, data in self._reader.messages([c._replace(owner=self._reader) for c in connections]):
            yield wanted[connection.id], stamp_ns, bytes(data)


def _unfinished(path: Path) -> str:
    name = show(path.name)
    return (
        f"{show(path)}: the recorder was killed before it had written the index; write it, and copy what is whole into a "
        f"new bag: rosbag reindex '{name}' && rosbag filter '{name}' recovered.bag True"
    )


def names(paths: list[Path]) -> str:
    """File names for people."""
    return ", ".join(show(p.name) for p in paths)


def _connection(
    owner: Storage,
    number: int,
    topic: str,
    kind: str,
    definition_encoding: str,
    definition: str,
    count: int,
    encoding: str,
    profiles: str,
) -> "Connection":
    from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
    from rosbags.rosbag2.metadata import parse_qos

    formats = {
        "ros2msg": MessageDefinitionFormat.MSG,
        "ros1msg": MessageDefinitionFormat.MSG,
        "ros2idl": MessageDefinitionFormat.IDL,
        "omgidl": MessageDefinitionFormat.IDL,
    }
    known = formats.get(definition_encoding or "", MessageDefinitionFormat.NONE) if definition else None
    about = MessageDefinition(known or MessageDefinitionFormat.NONE, definition if known else "")
    offered = []
    with suppress(Exception):  # whatever people have written there: it only says how the topic was offered
        offered = parse_qos(profiles)
    if kind.count("/") == 1:  # as ROS 1 names types
        kind = kind.replace("/", "/msg/")
    return Connection(number, topic, kind, about, "", count, ConnectionExtRosbag2(encoding, offered), owner)


def _connect(path: Path, temporary: Path) -> sqlite3.Connection:
    """Read-only. What a killed recorder left in the write-ahead log or the journal is taken into account, in a copy."""
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    if any(p.exists() and p.stat().st_size for p in beside):
        folder = Path(tempfile.mkdtemp(dir=temporary))
        for file in (path, *beside):
            if file.exists():
                shutil.copy(file, folder / file.name)
        database = sqlite3.connect(folder / path.name)
    else:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    return database


def zstd() -> Any:
    """Python's module for Zstandard, as rosbags brings it."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _decompressed(path: Path, temporary: Path) -> Path:
    """The content of a file compressed with Zstandard, as rosbag2 does it file by file."""
    target = Path(tempfile.mkdtemp(dir=temporary)) / path.name.removesuffix(".zst").removesuffix(".zstd")
    try:
        with path.open("rb") as source, zstd().open(source, "rb") as reader, target.open("wb") as out:
            shutil.copyfileobj(reader, out)
    except (EOFError, zstd().ZstdError) as error:
        raise DataError(
            f"{show(path)}: cannot be decompressed ({error}); it is cut off or damaged: copy it again"
        ) from error
    return target


def _check_end(path: Path) -> None:
    """A recorder that is killed leaves an MCAP file without its index and end marker."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - len(MCAP_MAGIC)))
        if file.read() != MCAP_MAGIC:
            raise DataError(
                f"{show(path)}: truncated: {size} bytes without the end marker of MCAP, as a killed recorder or an "
                f"interrupted copy leaves it; recover what is readable with: mcap recover {show(path.name)} -o recovered.mcap"
            )


def _start(path: Path) -> bytes:
    """The first bytes, by which files are told apart."""
    with path.open("rb") as file:
        start = file.read(8)
        if start == SQLITE_MAGIC[:8]:
            return start + file.read(8)
        if start == ROS1_MAGIC[:8]:
            return start + file.read(1)
    if not start:
        raise DataError(f"{show(path)}: an empty file; the recording was not written")
    return start


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Names of the storage files by a metadata.yaml, and a remark if it cannot be read; none where it is not there."""
    if not path.exists():
        return [], []
    try:
        paths = yaml.safe_load(path.read_text("utf-8-sig"))["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePath(name).name for name in paths], []
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [], [
            f"metadata.yaml cannot be read ({type(error).__name__}); the files are read in the order of their names"
        ]


def _others_of_split(path: Path) -> list[str]:
    listed, _ = _listed(path.parent / "metadata.yaml")
    if path.name in listed and len(listed) > 1:
        return [f"one of {len(listed)} files of a recording; give the folder to read it whole"]
    return []


def _beside(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _is_storage(path: Path) -> bool:
    """By name: .mcap, .db3 and .bag, also compressed (.mcap.zstd) and unfinished (.bag.active); not a log of SQLite."""
    if not path.is_file() or path.name.endswith(("-wal", "-shm", "-journal")):
        return False
    return path.suffix in SUFFIXES or PurePath(path.stem).suffix in SUFFIXES


def _natural(path: Path) -> tuple:
    """rec_2 before rec_10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name))
