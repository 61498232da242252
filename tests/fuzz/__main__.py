"""Runs the cases, in a process of their own that a crash does not end.

    python -m tests.fuzz [--only PREFIX] [--packages A,B] [--sample N] [--seed S]
                          [--shard I/K] [--list KINDS] [--log FILE]

Prints the number of outcomes of each kind, by part of the package, and the places of those of
the kinds raw, hang, crash and unnamed, the most frequent first. Exit status 1 if there are any
raw, hang or crash, or if a public name has no recipe.
"""

import argparse
import collections
import json
import os
import subprocess
import sys


def main() -> int:
    options = _options()
    if options.worker is not None:
        _work(options)
        return 0
    found = list(_results(options))
    kinds = collections.Counter(row["kind"] for row in found)
    parts = collections.Counter((_part(row), row["kind"]) for row in found)
    print("\n" + "  ".join(f"{kind} {n}" for kind, n in kinds.most_common()), "of", len(found))
    for part in sorted({part for part, _ in parts}):
        counts = "  ".join(f"{k} {parts[part, k]}" for k in kinds if parts[part, k])
        print(f"  {part:14} {counts}")
    for kind in options.list.split(","):
        rows = [row for row in found if row["kind"] == kind]
        places = collections.Counter(row["where"] for row in rows)
        for place, n in places.most_common(60):
            row = next(row for row in rows if row["where"] == place)
            print(f"{kind:8} {n:5} {place}  e.g. {row['case']}: {row['text'][:150]}")
    bad = kinds["raw"] + kinds["hang"] + kinds["crash"] + kinds["invalid"] + kinds["missing"]
    return int(bad > 0)


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--packages", default="", help="parts of the package, as compare,noise")
    parser.add_argument("--sample", type=int, help="so many cases instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="1/1", help="I/K: every K-th case, from the I-th")
    parser.add_argument("--list", default="invalid,missing,crash,hang,raw,unnamed")
    parser.add_argument("--log", help="a file for one line of JSON a case")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _part(row):
    """The package whose line raised, or the name's own if none did."""
    return row["where"].split("/")[0].split(":")[0] if row["where"] not in ("", "-") else "-"


def _results(options):
    """Rows of results; a process that dies leaves a crash, and the next goes on behind it."""
    first, log = 0, open(options.log, "w") if options.log else None  # noqa: SIM115
    while first is not None:
        command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:], f"--worker={first}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
        # A pool of threads in each of several runs waits for the others' cores.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as worker:
            begun = None
            for line in worker.stdout:
                row = json.loads(line)
                if "begin" in row:
                    begun = row
                    continue
                begun = None
                if log:
                    print(json.dumps(row), file=log, flush=True)
                yield row
        first = None
        if worker.returncode and begun:
            yield {"case": begun["case"], "kind": "crash", "where": "-", "text": ""}
            first = begun["begin"] + 1
        elif worker.returncode:
            raise SystemExit(worker.returncode)


def _work(options):
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    import jax

    jax.config.update("jax_enable_x64", True)
    from . import cases, judge

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**row):
        print(json.dumps(row), file=out, flush=True)

    if options.worker == 0:
        for name in cases.missing():
            tell(case=name, kind="missing", where="-", text="no recipe and no reason")
    judge.stop_at_the_compiler()
    invalid, checked = set(), set()
    index, total = (int(part) for part in options.shard.split("/"))
    packages = tuple(options.packages.split(",")) if options.packages else ()
    if options.sample is None:
        chosen = cases.all_cases(options.only, packages)
    else:
        chosen = iter(cases.sampled(options.sample, options.seed, options.only, packages))
    for number, case in enumerate(chosen):
        if number < options.worker or number % total != index - 1:
            continue
        tell(begin=number, case=" / ".join(case))
        if options.sample is None and case.recipe not in checked:
            checked.add(case.recipe)
            valid = cases.run_valid(case.recipe)
            if valid.kind not in ("accepted", "compiles") and "/nowhere" not in valid.text:
                invalid.add(case.recipe)
                tell(case=case.recipe, kind="invalid", where=valid.where, text=valid.text)
        if case.recipe not in invalid:
            found = cases.run(case)
            tell(case=" / ".join(case), **found._asdict())


if __name__ == "__main__":
    raise SystemExit(main())
