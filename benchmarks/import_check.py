"""Imports prompts from parquet, and a few bad lines, into two indexes and compares the collections.

One import is undisturbed; the other is killed with -9 three times and resumed. The collections must
be equal point for point, including vectors. Reports the rate, the peak memory and the dropped rows.

    import_check.py UNPROMPT --count 1000000 --work FOLDER --report reports/import.json

--keep leaves the undisturbed data directory and its table of vectors in FOLDER.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

KILLS = [0.25, 0.5, 0.75]
LOOK_EVERY_S = 0.05


def say(text):
    print(f"import: {text}", file=sys.stderr, flush=True)


class Stack:
    """`unprompt up` on its own data directory, which holds the index."""

    def __init__(self, unprompt, folder):
        self.command = [unprompt, "--data-dir", str(folder)]
        self.folder = folder
        self.log = open(folder.with_suffix(".log"), "wb")
        ports = ["--broker-port", "0", "--index-port", "0", "--http-port", "0"]
        self.process = subprocess.Popen([*self.command, "up", *ports], stdout=self.log, stderr=self.log)
        self.wait()

    def wait(self):
        end = time.monotonic() + 120
        while not (self.folder / "endpoints.json").exists() or self.run("index", "stats", check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"unprompt up did not start: see {self.log.name}")
            time.sleep(0.5)

    def run(self, *arguments, check=True):
        done = subprocess.run([*self.command, "--json", *arguments], capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.exit(f"unprompt {' '.join(arguments)} failed: {done.stderr}")
        return done

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(fields[field].split()[0]) * 1024 for name, field in
                (("own", "RssAnon"), ("mapped", "RssFile"), ("peak", "VmHWM"))}

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def bad_lines(unprompt, count, path):
    """Writes lines that an import must drop, `count` of each kind; returns the expected report."""
    sample = [unprompt, "prompts", "sample", "--distinct", "-n", str(count)]
    known = subprocess.run(sample, capture_output=True, text=True, check=True).stdout.splitlines()
    with open(path, "w", encoding="utf-8") as file:
        for line in known:
            text = json.loads(line)["text"]
            for written in (text, f"  {text}\u00a0", "", "\u200b\u0007"):
                file.write(json.dumps({"text": written}) + "\n")
            file.write('{"text": "cut off\n{"caption_of": 7}\n')
    # The first line of each text is kept; its copy here and the row in the table are duplicates.
    return {"duplicate": 2 * count, "empty": 2 * count, "not-json": count, "no-text": count}


def build(stack, sources, kill_at=None, count=0):
    """Runs `index build` and returns its result, or kills it at the share `kill_at` of `count`."""
    out = open(stack.folder.with_suffix(".build.json"), "wb+")
    started = time.monotonic()
    process = subprocess.Popen([*stack.command, "--json", "index", "build", *map(str, sources)], stdout=out)
    while kill_at is not None and process.poll() is None:
        if acknowledged(stack.folder) >= kill_at * count:
            process.kill()
        time.sleep(LOOK_EVERY_S)
    _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, process.returncode, None)
    if kill_at is not None:
        if process.returncode != -signal.SIGKILL:
            sys.exit(f"index build ended by itself ({process.returncode}) before it could be killed: take a larger --count")
        return None
    if status:
        sys.exit(f"index build failed with {status}")
    out.seek(0)
    return {"seconds": time.monotonic() - started, "peak_bytes": usage.ru_maxrss * 1024, "said": json.loads(out.read())}


def dropped(built):
    return {reason: rows["count"] for reason, rows in built["said"]["report"]["dropped"].items()}


def acknowledged(folder):
    for checkpoint in (folder / "builds").glob("*.json"):
        try:
            return json.loads(checkpoint.read_text())["acknowledged"]
        except (OSError, ValueError):
            pass
    return 0


def exported(stack, path, keep):
    stack.run("index", "export", str(path), "--with-vectors")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not keep:
        path.unlink()
    return digest.hexdigest()


def through(unprompt, folder, sources, count, kills, keep):
    say(f"{folder.name}: {count:,} prompts, {len(kills)} kills")
    stack = Stack(unprompt, folder)
    for at in kills:
        build(stack, sources, at, count)
        say(f"{folder.name}: killed at {acknowledged(folder):,}")
    built = build(stack, sources)
    built["index_memory"] = stack.memory()
    built["index"] = json.loads(stack.run("index", "stats").stdout)
    built["sha256"] = exported(stack, folder.with_suffix(".parquet"), keep)
    stack.stop()
    if not keep:
        shutil.rmtree(folder)
    return built


def told(built):
    """The part of a run's result for the report, without paths."""
    said = built["said"]
    counts = {name: said[name] for name in ("indexed", "indexed_before", "points")}
    read = {name: said["report"][name] for name in ("read", "kept")}
    own = {name: built[name] for name in ("seconds", "peak_bytes", "index_memory", "sha256")}
    return own | counts | read | {"dropped": dropped(built), "disk_bytes": built["index"]["disk_bytes"]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("unprompt")
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--report", type=pathlib.Path, default="reports/import.json")
    arguments.add_argument("--keep", action="store_true")
    arguments = arguments.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    bad, prompts = arguments.work / "bad.jsonl", arguments.work / "prompts.parquet"
    expected = bad_lines(arguments.unprompt, max(1, arguments.count // 1000), bad)
    subprocess.run([arguments.unprompt, "prompts", "sample", "--distinct", "-n", str(arguments.count), "--out", str(prompts)], check=True)
    run = functools.partial(through, arguments.unprompt, sources=[bad, prompts], count=arguments.count)
    undisturbed = run(arguments.work / "undisturbed", kills=[], keep=arguments.keep)
    killed = run(arguments.work / "killed", kills=KILLS, keep=False)
    same = undisturbed["sha256"] == killed["sha256"]
    counted = dropped(undisturbed) == dropped(killed) == expected
    report = {"count": arguments.count, "prompts_per_s": arguments.count / undisturbed["seconds"],
              "undisturbed": told(undisturbed), "killed": told(killed), "kills": KILLS, "same_collection": same, "dropped_as_expected": counted}
    arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    peak = max(undisturbed["peak_bytes"], killed["peak_bytes"]) / 1e9
    print(f"{arguments.count:,} prompts: {report['prompts_per_s']:.0f}/s with the graph, at most {peak:.2f} GB; "
          f"killed {len(KILLS)} times: {'the same collection' if same else 'ANOTHER COLLECTION'}; "
          f"dropped: {dropped(undisturbed)}{'' if counted else f', NOT {expected} IN BOTH'}")
    sys.exit(0 if same and counted else 1)


if __name__ == "__main__":
    main()
