"""Does every stranger's adapter file end in a sentence or in a style, whatever its bytes are?

    OMP_NUM_THREADS=1 .venv/bin/python scripts/bench/fuzz.py
    OMP_NUM_THREADS=1 .venv/bin/python scripts/bench/fuzz.py --seconds 1200 --seed 7
    OMP_NUM_THREADS=1 .venv/bin/python scripts/bench/fuzz.py --seed 7 --only 1234 --keep /tmp/case
    OMP_NUM_THREADS=1 .venv/bin/python scripts/bench/fuzz.py --kinds monster "adapter_config" --count 500

Sound files of every dialect (of difflora, and of the independent writers of tests/dialect_files.py) are spoilt as
mutate.py does and then loaded, inspected, repaired, converted, installed, shown as a card and on the command line, and
made again. A finding is any exception but DiffloraError, a sentence that is not one printable line under 1000
characters, more than 2 seconds or 200 MB for half a megabyte (four times that for the widest layers of SDXL), a file
left or changed outside the target, a word on stderr, an update that is read and cannot be used, and a file that
`inspect` calls sound and `load_adapter` refuses, or the other way round. Headers made by hypothesis come last. Exit
code 1 with a finding. Case N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace

import torch
from mutate import FILE, KINDS, NETWORKS, RECIPES, TEXTS, Style, packed, random_weights, styles

from difflora import render
from difflora.adapters import convert as conversion
from difflora.adapters.adapter import Adapter, Factors, Info
from difflora.adapters.cards import card
from difflora.adapters.convert import convert, repair
from difflora.adapters.disk import content_sha256
from difflora.adapters.edits import edit, install
from difflora.adapters.families import Match, match
from difflora.adapters.files import load_adapter, save_adapter
from difflora.adapters.header import shown_path
from difflora.adapters.inspection import Inspection, inspect_header
from difflora.adapters.measure import inspect_numbers
from difflora.adapters.places import sources
from difflora.drawing import again
from difflora.errors import DiffloraError
from difflora.training.again import read_recipe

LIMIT = 2.0
"""Seconds of the processor for one thing done with one file."""
STUCK = 2
"""Seconds of the clock for it, beside what the processor may take on a busy machine."""
MOST_MEMORY = 200 * 2**20
LONGEST = 1000
PEAK = Path("/proc/self/clear_refs")
WEIGHTS = {"sound": 1, "monster": 1, "appended": 1, "tensors": 12, "words": 6, "adapter_config": 4, "header JSON": 3}
"""How often a kind is tried; 2 for the others."""


class Stuck(BaseException):
    """Too long; no `except Exception` may hide it."""


@dataclass
class Finding:
    """Something that should not have happened, and the first case that showed it."""

    text: str
    case: int
    kind: str
    times: int = 1


@dataclass
class Tally:
    """What was tried and what came of it."""

    tried: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    inspected: Counter[str] = field(default_factory=Counter)
    done: Counter[tuple[str, bool]] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    slowest: dict[str, tuple[float, int]] = field(default_factory=dict)
    largest: tuple[int, int] = (0, 0)
    """Bytes, and the case."""

    def found(self, sign: str, text: str, case: int, kind: str) -> None:
        """Keep a finding once for all cases that show it."""
        if sign in self.findings:
            self.findings[sign].times += 1
        else:
            self.findings[sign] = Finding(text, case, kind)


class Bench:
    """A folder to work in, a base to read for, a library with two styles, and stderr that is listened to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.styles = styles()
        self.weights = {name: random_weights(shapes, 1) for name, shapes in NETWORKS.items()}
        self.library = folder / "library"
        self.library.mkdir()
        self.digests = {name: self._style(name, seed) for seed, name in enumerate(("good", "other"), 1)}
        self.books = listing(self.library)
        self.heard = (folder / "heard").open("w+b", buffering=0)  # noqa: SIM115

    def __enter__(self) -> Bench:
        self.before = os.dup(2), again.open_model
        os.dup2(self.heard.fileno(), 2)
        again.open_model = lambda base: SimpleNamespace(
            shapes=lambda: NETWORKS["tiny"], family="tiny", name=base, parts={}
        )
        return self

    def __exit__(self, *error: object) -> None:
        stderr, again.open_model = self.before
        os.dup2(stderr, 2)
        os.close(stderr)
        self.heard.close()

    def _style(self, name: str, seed: int) -> str:
        path = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        rng = torch.Generator().manual_seed(seed)
        factors = Factors(torch.randn(2, 96, generator=rng), torch.randn(96, 2, generator=rng), 1.5)
        made = Adapter({path: factors}, Info(name, "tiny", "tiny", name))
        return content_sha256(save_adapter(self.library / f"{name}.safetensors", made, {}))

    def case(self, seed: int, number: int, kinds: Sequence[str]) -> tuple[str, Style, Random]:
        """Always the same for a seed and a number."""
        rng = Random(f"{seed}:{number}")
        kind, style = rng.choices(kinds, [WEIGHTS.get(kind, 2) for kind in kinds])[0], rng.choice(self.styles)
        if kind == "words" and rng.random() < 0.5:
            style = rng.choice([style for style in self.styles if style.network == "tiny"])
        made = KINDS[kind](rng, style, self.styles)
        swap = {b"@sha@": self.digests["good"].encode(), b"@sha2@": self.digests["other"].encode()}
        if any(mark in made.data for mark in swap) if made.files else False:
            metadata, rows = made.rows()
            for mark, digest in swap.items():
                metadata = {key: text.replace(mark.decode(), digest.decode()) for key, text in metadata.items()}
            made = made.joined(metadata, rows)
        return kind, made, rng


# --- what is done with a file


def loaded(bench: Bench, path: Path, style: Style) -> None:
    """Load it, and use every update once."""
    shapes, weights = NETWORKS[style.network], bench.weights[style.network]
    adapter = load_adapter(path, shapes, style.network)
    adapter.nbytes()
    for module, update in adapter.layers.items():
        if tuple(update.shape) != tuple(shapes[module]):
            raise AssertionError(f"shape {update.shape} of {update.kind}")
        delta, plain = update.delta(weights[module]), update.factors()
        if tuple(delta.shape) != tuple(shapes[module]):
            raise AssertionError(f"delta of shape {tuple(delta.shape)} of {update.kind}")
        if plain is not None and torch.isfinite(delta).all():
            near = torch.allclose(plain.delta(), delta, rtol=1e-3, atol=1e-3 * float(delta.abs().max()))
            if not near and torch.isfinite(plain.delta()).all():
                raise AssertionError(f"plain factors of {update.kind} are another update")


def inspected(bench: Bench, path: Path, base: Match | None) -> Inspection:
    """Inspect it and show it, to a person and to a script."""
    header = inspect_header(path, base)
    found = inspect_numbers(header, base or match(sources(path)))
    for one in (header, found):
        texts = [one.name, one.family, *one.dialects, *one.words.values(), *one.dtypes, *one.norms, *one.networks()]
        texts += [module.path for module in one.modules] + [trouble.text for trouble in one.troubles]
        texts += [text for verdict in one.programs for text in (verdict.program, verdict.strength, verdict.why)]
        bad = [text for text in texts if not text.isprintable() or len(text) > 2 * LONGEST]
        if bad:
            raise AssertionError(f"not one line: {bad[0][:80]!r}")
    on_screen(lambda screen: (screen.inspected_header(header), screen.inspected(found, True)))
    return found


def on_screen(show: Callable[[object], object]) -> None:
    """Show something in both ways; the script's line must be JSON."""
    for as_json in (False, True):
        raw = io.BytesIO()
        page = io.TextIOWrapper(raw, "utf-8", write_through=True)
        with redirect_stdout(page):
            show(render.screen(as_json))
        if as_json:
            json.loads(raw.getvalue())


def carded(bench: Bench, path: Path, style: Style) -> None:
    """Its card, for any base and for one."""
    for shapes in (None, NETWORKS[style.network]):
        one = card(path, shapes, style.network if shapes else "")
        texts = [one.name, one.trigger, one.family, one.base, one.rank, one.made, one.pictures, one.problem]
        texts += [text for row in one.metadata.items() for text in row]
        bad = [text for text in texts if not text.isprintable() or len(text) > 2 * LONGEST]
        if bad or not abs(one.weight) <= 10:
            raise AssertionError(f"not one line: {bad[0][:80]!r}" if bad else f"weight {one.weight}")
        _ = one.sha256


def made_again(bench: Bench, path: Path, out: Path, runs: Path) -> None:
    """Made again, as `difflora again` does; a training's recipe is only read."""
    if again.is_made(path):
        again.make_again(path, bench.library, out, "again")
    else:
        read_recipe(path, images=None, name="again", out=out, runs=runs)


def things(bench: Bench, path: Path, style: Style, rng: Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that is done with a file, by name."""
    shapes, own = NETWORKS[style.network], style.dialect != "monster products"
    base = Match(style.network, shapes)
    known = None if style.network == "tiny" or rng.random() < 0.1 or not own else base
    out, runs = path.parent.parent / "out", path.parent.parent / "runs"
    yield "load", lambda: loaded(bench, path, style)
    yield "inspect", lambda: inspected(bench, path, base)
    yield "card", lambda: carded(bench, path, style)
    yield "hash", lambda: content_sha256(path)
    yield "again", lambda: made_again(bench, path, out, runs)
    # Some of these for each file: what they share was tried by then.
    if known is None and rng.random() < 0.5:
        yield "inspect without a base", lambda: inspected(bench, path, None)
    if rng.random() < 0.5:
        yield "repair", lambda: on_screen_once(repair(path, out / "repaired.safetensors", base=known))
    if rng.random() < 0.5:
        yield "install", lambda: install(path, out, shapes, style.network)
    dialect = rng.choice(("kohya", "diffusers", "peft"))
    if rng.random() < 0.5:
        more = {
            "dtype": rng.choice((None, torch.float16, torch.bfloat16, torch.float32)),
            "weights": rng.choice((None, bench.weights[style.network].__getitem__)) if own else None,
            "sidecar": rng.random() < 0.5,
            # Decomposing the widest layers there are takes minutes by right.
            **(
                rng.choice(({}, {}, {"rank": rng.choice((1, 2, 4096))}, {"max_error": rng.choice((0.0, 0.01, 0.5))}))
                if own
                else {}
            ),
        }
        target = out / ("converted" if dialect == "peft" else "converted.safetensors")
        yield f"convert to {dialect}", lambda: on_screen_once(convert(path, dialect, target, base=known, **more))
    if rng.random() < 0.1:
        yield "convert beside", lambda: convert(path, dialect, base=known)
        yield "edit", lambda: edit(path, trigger="new", weight=0.5)


def on_screen_once(made: conversion.Converted) -> None:
    """Show what was written."""
    on_screen(lambda screen: screen.converted(made))


# --- how it ends


def tried(bench: Bench, tally: Tally, number: int, kind: str, style: Style, rng: Random, keep: Path | None) -> None:
    """Do everything with one case."""
    place = bench.folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("in", "out", "runs"):
        (place / name).mkdir(parents=True)
    path = style.write(place / "in")
    if keep:
        shutil.copytree(place / "in", keep, symlinks=True, dirs_exist_ok=True, ignore=no_pipes)
    tally.tried[kind] += 1
    ends: dict[str, bool] = {}
    loads: dict[str, object] = {}
    before = listing(place)
    for what, work in things(bench, path, style, rng):
        ends[what] = measured(bench, tally, number, kind, style, what, work, loads)
        tally.done[what, ends[what]] += 1
        now = listing(place)
        beside = what in ("convert beside", "edit")
        strange = [n for n in before if n not in now or (now[n] != before[n] and not beside)]
        strange += [n for n in now if n not in before and (".tmp" in n or not (n.startswith("out/") or beside))]
        if strange:
            tally.found(f"files {what}", f"{what}: left or changed {strange[:3]}", number, kind)
        shutil.rmtree(place / "out")
        (place / "out").mkdir()
        before = listing(place) if beside else before
    if listing(bench.library) != bench.books:
        tally.found("library", "the library was changed", number, kind)
    tally.read[kind] += ends["load"]
    tally.inspected[kind] += ends["inspect"]
    compare(tally, number, kind, ends, loads)


def compare(tally: Tally, number: int, kind: str, ends: dict[str, bool], loads: dict[str, object]) -> None:
    """What inspect says of a file must be what happens to it."""
    found = loads.get("inspect")
    if isinstance(found, Inspection) and found.loads != ends["load"] and "made for a base" not in str(loads["load"]):
        text = f"inspect says loads={found.loads}, load_adapter says {loads['load'] or 'it does'}"
        tally.found(f"disagree {found.loads}", text, number, kind)


def measured(
    bench: Bench,
    tally: Tally,
    number: int,
    kind: str,
    style: Style,
    what: str,
    work: Callable[[], object],
    ends: dict[str, object],
) -> bool:
    """Do one thing; whether it came to an end without a refusal."""
    # Thousands of tensors take their time, decomposing even small layers does, and the widest layers of SDXL take both.
    wide = 4 if style.dialect == "monster products" else 1
    seconds = LIMIT * max(wide, style.size / 2**19, 4 if what.startswith("convert") else 1)
    memory_limit = MOST_MEMORY * wide
    heard, memory, start = bench.heard.tell(), reset_memory(), time.process_time()
    done = False
    try:
        with limited(seconds):
            ends[what] = work()
            done = True
    except DiffloraError as error:
        ends[what] = text = str(error)
        size = len(text.replace(shown_path(bench.folder / "case" / "in"), ""))
        if not text.isprintable() or size >= LONGEST or not text:
            sign = f"sentence {type(error).__name__} {what} {text.isprintable()} {size < LONGEST}"
            tally.found(sign, f"{what}: {len(text)} characters: {ascii(text)[-400:]}", number, kind)
    except (Exception, Stuck) as error:
        ends[what] = repr(error)
        sign, text = signed(error, what)
        sign = f"Stuck {what} {style.dialect}" if isinstance(error, Stuck) else sign
        tally.found(sign, f"{text} ({style.dialect})", number, kind)
    took, grown = time.process_time() - start, peak_memory() - memory
    if took > tally.slowest.get(what, (0.0, 0))[0]:
        tally.slowest[what] = (took, number)
    if took > 1.2 * seconds:
        tally.found(f"slow {what} {style.dialect}", f"{what}: {took:.1f} s ({style.dialect})", number, kind)
    tally.largest = max(tally.largest, (grown, number))
    if grown > memory_limit:
        text = f"{what}: {grown / 2**20:.0f} MB more ({style.dialect})"
        tally.found(f"memory {what} {style.dialect}", text, number, kind)
    sys.stderr.flush()
    bench.heard.seek(0, 2)
    if bench.heard.tell() > heard:
        bench.heard.seek(heard)
        said = bench.heard.read().decode(errors="replace")
        tally.found(f"stderr {what} {said[-60:]}", f"{what} says on stderr: {said[:300]!r}", number, kind)
    return done


def signed(error: BaseException, what: str) -> tuple[str, str]:
    """What tells one bug from another, and the text of it."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/difflora/" in f.filename or "/webui/" in f.filename
    ]
    frames = frames or traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
    return f"{type(error).__name__} {place}", f"{what}: {type(error).__name__} in {place}: {ascii(error)[:300]}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stuck after so many seconds of the processor, or STUCK of the clock."""

    def stop(*_: object) -> None:
        raise Stuck("too long")

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, STUCK + 5 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def reset_memory() -> int:
    """Forget the peak; what is used now. 0 where the system does not tell."""
    if PEAK.exists():
        PEAK.write_text("5")
    return status("VmRSS")


def peak_memory() -> int:
    """The most since then."""
    return status("VmHWM")


def status(name: str) -> int:
    if not PEAK.exists():
        return 0
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            place = os.path.join(root, name)
            facts = os.lstat(place)
            moment = (facts.st_size, facts.st_mtime_ns) if name in files else (0, 0)
            found[os.path.relpath(place, folder)] = moment
    return found


def no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


# --- headers by hypothesis


def invented_headers(bench: Bench, tally: Tally, count: int, seed: int) -> None:
    """Headers from JSON and from rows that are nearly right, by hypothesis."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    names = [name for style in bench.styles[:9] for name in list(style.rows()[0]) + [row[0] for row in style.rows()[1]]]
    leaf = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([*TEXTS, "F32"])
    )
    values = st.recursive(
        leaf, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(max_size=9), s, max_size=4), max_leaves=9
    )
    axes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 64, 2**40]), max_size=5)
    sound = st.tuples(st.sampled_from(["F32", "F16", "BF16", "I64", "F64"]), axes)
    rows = st.dictionaries(st.sampled_from(names) | st.text(max_size=9), sound, max_size=8)
    words = st.dictionaries(
        st.sampled_from([*RECIPES, "ss_v2"]), values.map(json.dumps) | st.text(max_size=9), max_size=3
    )
    number = [10**9]

    def one(header: object, numbers: bytes) -> None:
        number[0] += 1
        style = Style("hypothesis", "toy", {FILE: packed(header, numbers)})
        tried(bench, tally, number[0], "hypothesis", style, Random(number[0]), None)

    def laid_out(rows: dict, words: dict) -> None:
        header, at = {"__metadata__": words}, 0
        for name, (dtype, shape) in rows.items():
            size = math.prod(shape) * {"F32": 4, "F16": 2, "BF16": 2}.get(dtype, 8)
            if at + size < 2**20:
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
                at += size
        one(header, bytes(at))

    quick = settings(
        max_examples=max(1, count // 2), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    keys = st.sampled_from(["__metadata__", *names[:30]]) | st.text(max_size=9)
    any_header = values | st.dictionaries(
        keys, values | st.fixed_dictionaries({k: values for k in ("dtype", "shape", "data_offsets")})
    )
    seeded(seed)(quick(given(rows, words)(lambda rows, words: laid_out(rows, words))))()
    seeded(seed)(quick(given(any_header)(lambda header: one(header, bytes(16)))))()


# --- the command


def show(tally: Tally, seed: int, seconds: float) -> None:
    """The tables and the findings."""
    print(f"\n{sum(tally.tried.values()):,} inputs, seed {seed}, {seconds:.0f} s\n")
    print("| what was spoilt | inputs | loaded | refused | inspected |\n|---|---|---|---|---|")
    for kind, count in sorted(tally.tried.items()):
        print(
            f"| {kind} | {count:,} | {tally.read[kind]:,} | {count - tally.read[kind]:,} | {tally.inspected[kind]:,} |"
        )
    print("\n| what was done | succeeded | did not | slowest, s (case) |\n|---|---|---|---|")
    for what in sorted({what for what, _ in tally.done}):
        took, case = tally.slowest.get(what, (0.0, 0))
        print(f"| {what} | {tally.done[what, True]:,} | {tally.done[what, False]:,} | {took:.2f} ({case}) |")
    print(f"\nmost memory: {tally.largest[0] / 2**20:.0f} MB in case {tally.largest[1]}")
    print(f"\n{len(tally.findings)} findings")
    for one in sorted(tally.findings.values(), key=lambda one: -one.times):
        repeat = "--hypothesis" if one.case >= 10**9 else f"--seed {seed} --only {one.case}"
        print(f"* {one.times}x [{one.kind}] {one.text}\n    {repeat}")


def main() -> int:
    """Try, count, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="inputs, beside those of hypothesis")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--keep", type=Path, help="with --only: a folder to leave its files in")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(KINDS), help="these kinds only: changes what the numbers mean"
    )
    parser.add_argument("--hypothesis", type=int, default=300, help="headers by hypothesis")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("always")
    tally, begun = Tally(), time.monotonic()
    numbers = [args.only] if args.only is not None else range(args.start, args.start + args.count)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place, Bench(Path(place)) as bench:
        run(bench, tally, args, numbers, begun)
    show(tally, args.seed, time.monotonic() - begun)
    return 1 if tally.findings else 0


def run(bench: Bench, tally: Tally, args: argparse.Namespace, numbers: Iterable[int], begun: float) -> None:
    """All that was asked for."""
    for number in numbers:
        if time.monotonic() - begun > args.seconds:
            break
        kind, style, rng = bench.case(args.seed, number, args.kinds or list(KINDS))
        tried(bench, tally, number, kind, style, rng, args.keep)
    if args.only is None and args.hypothesis:
        invented_headers(bench, tally, args.hypothesis, args.seed)


if __name__ == "__main__":
    sys.exit(main())
