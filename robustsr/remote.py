"""Places of files: paths of this machine, and URLs (s3://bucket/folder, gs://, sftp://, memory://), through fsspec."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeAlias

from .files import mark_of, part_of
from .types import RobustSRError

# Object stores: a file appears when its upload is complete, and there are no folders.
STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "memory"}
FEW = 5  # files of one folder for which no listing is asked
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Url:
    """A file or folder that fsspec reaches, with as much of a Path's face as the planning of jobs needs.

    ``listed``: what a listing said of it, which saves asking again; empty: it was not in it. Every method that asks
    raises RobustSRError where the file system does not answer, or its package is not installed.
    """

    text: str  # without a slash at its end
    listed: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        if name == ".":
            return self
        return Url(f"{self.text.removesuffix('/')}/{name}" if self._inner else self.text + name)

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        above, slash, _ = self._inner.rpartition("/")
        return Url(self.text.removesuffix(self._inner) + (above or slash))

    def with_name(self, name: str) -> Url:
        return self.parent / name

    def absolute(self) -> Url:
        """Itself: it has no folder that it could be relative to."""
        return self

    def resolve(self) -> Place:
        """The one way to write this place, to compare places by: a path where it is on this machine."""
        if self.protocols & {"file", "local"}:
            return Path(self.inside).resolve()
        return Url(str(self.fs.unstrip_protocol(self.inside)))

    def exists(self) -> bool:
        return self.info() is not None

    def is_file(self) -> bool:
        return (self.info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self.info() or {}).get("type") == "directory"

    @property
    def _inner(self) -> str:
        return self.text.partition("://")[2]

    # --- what fsspec is asked ---

    @property
    def fs(self) -> Any:  # noqa: ANN401 - fsspec is not typed
        """The file system; fsspec keeps one of a kind."""
        return self._reached()[0]

    @property
    def inside(self) -> str:
        """The path inside that file system."""
        return str(self._reached()[1])

    @property
    def protocols(self) -> set[str]:
        protocol = self.fs.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    def _reached(self) -> Any:  # noqa: ANN401
        import fsspec

        with _told(f"cannot use {self}"):  # an unknown protocol, or one whose package is missing: fsspec says which
            return fsspec.url_to_fs(self.text)

    def info(self) -> Mapping[str, Any] | None:
        """What the file system knows of it; None: it is not there."""
        if self.listed is not None:
            return self.listed or None
        with _told(f"cannot look at {self}"):
            try:
                found: Mapping[str, Any] = self.fs.info(self.inside)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found

    def matches(self) -> list[Url]:
        """What a pattern matches."""
        with _told(f"cannot list {self}"):
            found = self.fs.glob(self.inside, detail=True)
        return [self._listed(info) for _, info in sorted(found.items())]

    def tree(self, *, deep: bool) -> dict[Url, list[Url]]:
        """The files of a folder, and if ``deep`` of those below, by their folder; asked afresh."""
        with _told(f"cannot list {self}"):
            self.fs.invalidate_cache()
            infos = self.fs.find(self.inside, maxdepth=None if deep else 1, detail=True)
        start, files = len(self.inside.rstrip("/")) + 1, defaultdict[Url, list[Url]](list)
        for name, info in sorted(infos.items()):
            url = self / name[start:]
            files[url.parent].append(Url(url.text, info))
        return files

    def _listed(self, info: Mapping[str, Any]) -> Url:
        return Url(str(self.fs.unstrip_protocol(info["name"])), info)

    def put(self, path: Path) -> None:
        """Uploads a file, which appears here whole or not at all."""
        if self.text.startswith("http"):
            raise RobustSRError(f"cannot write {self}: web servers take no files, give another -o")
        fs, target = self.fs, self.inside
        if self.protocols & STORES:
            fs.put_file(str(path), target)
            return
        part = self.with_name(part_of(self.name)).inside
        fs.makedirs(self.parent.inside, exist_ok=True)
        try:
            fs.put_file(str(path), part)
            if not self.protocols & {"file", "local", "sftp", "ssh"} and fs.exists(target):
                fs.rm_file(target)  # elsewhere a new name may not replace a file
            fs.mv(part, target)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(part)
            raise


Place: TypeAlias = Path | Url


class State(NamedTuple):
    """What tells whether a file has changed: its size, and the nanosecond, date or tag of its last change."""

    size: int
    version: int | str


def place(text: str) -> Place:
    """What a word of the command line names. RobustSRError: fsspec's chains (zip://...::s3://...) are not taken."""
    if "://" not in text:
        return Path(text)
    if "::" in text:
        raise RobustSRError(f"{text}: chained URLs are not taken, give that of the files themselves")
    scheme, _, inner = text.partition("://")
    return Url(f"{scheme}://{inner.rstrip('/') or inner[:1]}")


def local(place: Place) -> Path:
    """The place as a path of this machine. RobustSRError: it is elsewhere."""
    if isinstance(place, Url):
        raise RobustSRError(f"{place}: only `robustsr upscale` takes URLs; copy the files here first")
    return place


def below(place: Place, folder: Place) -> str:
    """The name of a place in a folder, or below it, with slashes; "." for the folder itself."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return place.relative_to(folder).as_posix()
    return str(place)[len(str(folder)) :].strip("/") or "."


def same(a: Place, b: Place) -> bool:
    """Whether both are one file or folder, however they are written: to a Mac names of another case are the same."""
    a, b = a.resolve(), b.resolve()
    if a == b or isinstance(a, Url) or isinstance(b, Url):
        return a == b
    return (mark := mark_of(a)) is not None and mark == mark_of(b)


def state(place: Place) -> State:
    """What is there now. OSError, RobustSRError: nothing, or it cannot be asked."""
    if isinstance(place, Path):
        stat = place.stat()
        return State(stat.st_size, stat.st_mtime_ns)
    info = place.info()
    if info is None:
        raise RobustSRError(f"{place} is not there")
    return State(info.get("size") or 0, next((str(info[key]) for key in _VERSIONS if info.get(key)), ""))


def looked_up(places: Sequence[Place]) -> list[Place]:
    """The places, those at URLs as listings of their folders show them where they are many: to ask for each would
    take a request each."""
    folders = Counter(place.parent for place in places if isinstance(place, Url))
    trees = [folder.tree(deep=False) for folder, count in folders.items() if count > FEW]
    found = {url: url for tree in trees for urls in tree.values() for url in urls}
    return [
        found.get(place, Url(place.text, {})) if isinstance(place, Url) and folders[place.parent] > FEW else place
        for place in places
    ]


@contextmanager
def fetched(place: Place) -> Iterator[Path]:
    """A file of this machine with the content of ``place``: itself, or a copy while the block lasts.

    RobustSRErrors of the block name the place.
    """
    if isinstance(place, Path):
        yield place
        return
    with _standing_in(place) as path:
        with _told(f"cannot read {place}"):
            place.fs.get_file(place.inside, str(path))
        yield path


def check_folder(folder: Place) -> None:
    """RobustSRError: no file can be put into ``folder``, which need not be there yet. Of URLs that is not known."""
    if isinstance(folder, Url):
        return
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), folder)
    if os.path.exists(there) and not there.is_dir():
        raise RobustSRError(f"{there} is a file, and results need a folder: give another -o")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RobustSRError(f"nothing may be written into {there.absolute()}: give another -o")


@contextmanager
def delivered(place: Place) -> Iterator[Path]:
    """Where to write what is to be at ``place``, in a folder that exists: there, or in a file that is then uploaded.

    RobustSRErrors of the block name the place; others: the folder cannot be made, the upload fails.
    """
    if isinstance(place, Path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RobustSRError(f"cannot make the folder {place.parent}: {error.strerror}") from error
        yield place
        return
    with _standing_in(place) as path:
        yield path
        with _told(f"cannot write {place}"):
            place.put(path)


def sweep(places: Iterable[Place]) -> None:
    """Removes what killed processes left half written beside ``places``, as far as that can be done."""
    for place in places:
        part = place.with_name(part_of(place.name))
        with suppress(Exception):  # mostly: it is not there
            if isinstance(part, Path):
                part.unlink()
            elif not part.protocols & STORES:
                part.fs.rm_file(part.inside)


@contextmanager
def _standing_in(url: Url) -> Iterator[Path]:
    """A path among the temporary files with the url's ending; RobustSRErrors name the url in its place."""
    with TemporaryDirectory(prefix="robustsr-") as folder:
        path = Path(folder) / f"file{url.suffix}"
        try:
            yield path
        except RobustSRError as error:
            raise RobustSRError(str(error).replace(str(path), str(url))) from error.__cause__


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Says what could not be done, whatever error the library behind a file system has for that."""
    try:
        yield
    except RobustSRError:
        raise
    except FileNotFoundError as error:  # most say no more than the path
        raise RobustSRError(f"{what}: no such file, folder or bucket") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RobustSRError(f"{what}: {reason}") from error
