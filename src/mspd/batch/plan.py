"""What a call is to do: which pictures, and where the copy of each goes. Walked lazily, as often as wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path, PurePath

from mspd import images
from mspd.batch.places import (
    Address,
    Member,
    Place,
    Spot,
    is_folder,
    key_of,
    listing,
    matches,
    members,
    place,
    store_of,
)
from mspd.errors import ImageError, UsageError, printable

_LOOKED_FOR = ", ".join(images.SUFFIXES) + " and others"


@dataclass(frozen=True)
class Job:
    """One picture: its name in the report, where it is, where its protected copy goes. `problem` is what the walk found
    wrong with it, or with a whole shard: a line that becomes its failed row. `other` is its name in the report of a
    call with its source alone where this one has several, or the other way round."""

    id: str
    source: Spot
    output: Spot
    problem: str = ""
    other: str = ""


def beside(folder: Place, ending: str) -> Place:
    """The folder's own place with `ending` added to its name."""
    if isinstance(folder, Address):
        return Address(folder.url.rstrip("/") + ending)
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.parent / (named.name + ending)


def plan(sources: Sequence[str | Path], out: str | Path | None, *, suffix: str | None = None) -> "Plan":
    """The jobs of a call: files as they are, folders and shards walked. UsageError for a folder or shard without
    pictures that is alone, for an output that cannot be, and for two pictures that would get the same one.

    One file goes to `out`, or beside itself as NAME.protected.png; several files and folders go into the folder `out`
    (a folder's default is FOLDER.protected), keeping the tree, a.jpg as a.jpg.png, so that a.jpg and a.png stay two.
    Copies have the `suffix`, .png unless given, but `out` where that names a single file. A tar shard (WebDataset) goes
    to a shard of its name in `out`, or to NAME.protected.tar: the pictures protected, the other files of their samples
    as they are. An address (`s3://...`) may contain `*`.
    """
    places: list[Place] = []
    for source in sources:
        pattern = isinstance(source, str) and "://" in source and "*" in source
        found = matches(Address(str(source))) if pattern else [place(source)]
        if not found:
            raise UsageError(f"{source}: matches nothing; check the address")
        places += found
    target = None if out is None else place(out)
    if isinstance(target, Address):
        store_of(target)  # whose driver may be missing
    jobs = Plan(tuple(places), target, suffix)
    single = len(places) == 1 and not is_folder(places[0])
    if not single and isinstance(target, Path) and target.is_file():
        raise UsageError(f"{target}: is a file; give a folder for the copies of several pictures")
    if not single and isinstance(target, Path) and not target.exists() and images.is_picture(target.name):
        raise UsageError(f"{target}: is a picture's name; give a folder for the copies of several pictures")
    len(jobs)  # the first walk finds what is wrong
    return jobs


@dataclass(frozen=True)
class Plan:
    """The jobs of `plan`, each time walked anew: names of one folder or shard at a time are kept in memory."""

    sources: tuple[Place, ...]
    out: Place | None
    asked: str | None

    @property
    def suffix(self) -> str:
        """Of the copies whose name is not given."""
        return self.asked or ".png"

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        if len(self.sources) == 1:
            return sum(1 for _ in self)
        shards = [self._shard_output(source) for source in self.sources if _is_shard(source)]
        for number, shard in enumerate(shards):
            if shard in shards[:number]:
                raise self._twice(shard)
        outputs, refused = set[bytes](), 0
        for number, job in enumerate(self, 1):
            if job.problem:
                refused += 1
                continue
            outputs.add(blake2b(str(job.output).encode("utf-8", "surrogateescape"), digest_size=12).digest())
            if len(outputs) + refused < number:
                raise self._twice(job.output)
        return len(outputs) + refused

    def _twice(self, output: Spot) -> UsageError:
        ending = "protect those whose names differ in their ending only with -o FOLDER"
        remedy = ending if self.out is None else "call once for each folder, each with an -o of its own"
        return UsageError(f"two files would be written to {output}: name each picture once, or {remedy}")

    @cached_property
    def root(self) -> Place | None:
        """What all the outputs are in, when that is one place; of a single picture or shard, its output."""
        if self.out is not None or not self._alone:
            return self.out
        return self._root(self.sources[0])

    @cached_property
    def report(self) -> Path | None:
        """Where the report goes unless told: beside the output of many pictures, when that is one place. It is private:
        for an output at an address, in the current folder."""
        many = next((s for s in self.sources if _is_shard(s) or is_folder(s)), None)
        if self.out is not None and (many is not None or not self._alone):
            home = self.out
        elif many is not None:
            home = self._root(many)
        else:
            return None
        named = beside(home, ".report.jsonl")
        return named if isinstance(named, Path) else Path(named.name)

    def _root(self, source: Place) -> Place:
        """Where the output of one source goes when `out` is not given."""
        if _is_shard(source):
            return _with_name(source, source.name.removesuffix(".tar") + ".protected.tar")
        if is_folder(source):
            return beside(source, ".protected")
        stem = source.name.rpartition(".")[0] or source.name
        return _with_name(source, stem + ".protected" + self.suffix)

    def __iter__(self) -> Iterator[Job]:
        for source in self.sources:
            if _is_shard(source):
                yield from self._shard(source)
            elif is_folder(source):
                yield from self._folder(source)
            else:
                yield Job(str(source), source, self._file(source))

    @property
    def _alone(self) -> bool:
        return len(self.sources) == 1

    def _names(self, within: str, whole: str) -> tuple[str, str]:
        """A picture's name in the report, and that which it has in a call with more sources or with its own alone."""
        return (within, whole) if self._alone else (whole, within)

    def _file(self, source: Place) -> Place:
        out = self.out
        if out is None:
            return self._root(source)
        ending = Path(out.name).suffix
        if self._alone and ending and not is_folder(out):
            if ending.lower() not in images.SUFFIXES:
                known = ", ".join(images.SUFFIXES)
                raise UsageError(f"{out}: unknown picture format {ending!r}; use one of {known}")
            if self.asked and images.FORMATS[self.asked] != images.FORMATS[ending.lower()]:
                raise UsageError(f"{out}: its name says another format than {self.asked[1:]!r}; leave one of them out")
            return out
        return out / (source.name + self.suffix)

    def _folder(self, folder: Place) -> Iterator[Job]:
        root = self.out or self._root(folder)
        if _real(folder) == _real(root):
            raise UsageError(f"{folder}: is the output folder, too; choose another one")
        empty = True
        for parts, problem in _pictures(folder, (), _real(root)):
            empty = False
            source, output = folder, root
            for part in parts:
                source, output = source / part, output / part
            output = output if problem else _with_name(output, output.name + self.suffix)
            name, other = self._names(str(Path(*parts)), str(source))
            yield Job(name, source, output, problem, other)
        if empty:
            yield self._nothing(folder, root, "folder")

    def _shard_output(self, shard: Place) -> Place:
        if self.out is None:
            return self._root(shard)
        return self.out if self._alone and _is_shard(self.out) else self.out / shard.name

    def _shard(self, shard: Place) -> Iterator[Job]:
        """One job a sample with a picture (WebDataset: files of one key stand together). A sample of several pictures
        fails, for only one would be protected, one with the name of an earlier one or of a place outside, one whose
        picture lies elsewhere, and so does a shard that cannot be read to its end."""
        out = self._shard_output(shard)
        if _real(out) == _real(shard):
            raise UsageError(f"{shard}: is the output, too; choose another one")
        name, other = self._names(shard.name, str(shard))
        try:
            samples = list(_samples(shard))  # all, before the first: nothing of a cut shard is protected
        except ImageError as error:
            yield Job(name, shard, Member(out, ""), str(error))
            return
        empty, keys, seen = True, set[str](), {key for key, sample in samples if _seen(key, sample)}
        for key, sample in samples:
            pictures = _seen(key, sample)
            lost = [m for m in sample if not pictures and (key in seen or images.is_picture(m.name))]
            if not pictures and not lost:
                continue
            empty, picture = False, (pictures or lost)[0]
            others = tuple(m for m in sample if m is not picture)
            source = replace(picture, siblings=others)
            again = key in keys
            wrong = _wrong(key, [m.name[len(key) :] for m in pictures], again)
            if lost:
                apart = "its picture lies elsewhere in the shard; put the files of a sample side by side"
                dot = "a picture whose name begins with a dot, and so has no key; give it another one"
                two = f"a picture of two endings ({picture.name[len(key) :]}); leave one"
                wrong = apart if key in seen else dot if key == picture.name else two
            keys |= {key} if pictures else set()
            problem = f"{printable(shard)}/{printable(key)}: {wrong}" if wrong else ""
            own = f"/{picture.name}" + (f" at byte {picture.offset}" if again or lost else "")
            yield Job(name + own, source, Member(out, key + self.suffix), problem, other + own)
        if empty:
            yield self._nothing(shard, Member(out, ""), "shard")

    def _nothing(self, source: Place, output: Spot, kind: str) -> Job:
        """The failed row of a folder or shard without pictures; alone, it is refused."""
        line = f"{source}: no pictures in this {kind} (looking for {_LOOKED_FOR})"
        if self._alone:
            raise UsageError(line)
        return Job(str(source), source, output, line)


def _is_shard(where: Place) -> bool:
    return where.name.endswith(".tar") and not (isinstance(where, Path) and where.is_dir())


def _with_name(where: Place, name: str) -> Place:
    if isinstance(where, Path):
        return where.with_name(name)
    return Address(where.url.rstrip("/").rpartition("/")[0] + "/" + name)


def _real(where: Place) -> Place:
    return where.resolve() if isinstance(where, Path) else Address(where.url.rstrip("/"))


def _pictures(folder: Place, parts: tuple[str, ...], root: Place) -> Iterator[tuple[tuple[str, ...], str]]:
    """The pictures under a folder in order, as parts of their paths, without those in `root`, where copies go; and each
    folder that cannot be listed, with a line of why."""
    try:
        entries = listing(folder)
    except ImageError as error:
        yield parts, str(error)
        return
    for name, is_dir in entries:
        if is_dir:
            if _real(folder / name) == root:
                _refuse_originals(folder / name)
            else:
                yield from _pictures(folder / name, (*parts, name), root)
        elif images.is_picture(name) and not _apple_double(name):
            yield (*parts, name), ""


def _apple_double(name: str) -> bool:
    """Whether this is what macOS puts beside a file, with its name after `._` but nothing of its content."""
    return PurePath(name).name.startswith("._")


def _refuse_originals(root: Place) -> None:
    """UsageError for a picture where copies go that is not called like one (a.jpg.png): it would not be protected."""
    for name, is_dir in listing(root):
        if is_dir:
            _refuse_originals(root / name)
        elif images.is_picture(name) and not images.is_picture(PurePath(name).stem):
            raise UsageError(
                f"{root / name}: lies where the copies go and would not be protected; choose another output folder, "
                "or move it"
            )


def _wrong(key: str, endings: list[str], again: bool) -> str:
    """What forbids to protect the sample `key` with pictures of these endings; "" where nothing does."""
    if len(endings) > 1:
        return f"several pictures ({', '.join(endings)}) in one sample; keep one of them"
    if again:
        return "a second sample of this name in the shard; give each one of its own"
    if ".." in key.split("/") or key.startswith("/") or "\\" in key:
        return "a name that leads out of the folder where the shard is unpacked; give it another one"
    return ""


def _seen(key: str, sample: list[Member]) -> list[Member]:
    """The pictures of a sample: key.png is one, key.mask.png is not one to be seen."""
    return [m for m in sample if m.name[len(key) :].lower() in images.PICTURES]


def _samples(shard: Place) -> Iterator[tuple[str, list[Member]]]:
    key, sample = "", list[Member]()
    for member in members(shard):
        if _apple_double(member.name):
            continue
        own = key_of(member.name)
        if sample and own != key:
            yield key, sample
            sample = []
        key = own
        sample.append(member)
    if sample:
        yield key, sample
