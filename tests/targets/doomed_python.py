"""A program of everyday kind: threads that allocate, compress and parse until standard input ends.

Each round gives the same; what is printed is how many rounds were different, and the sum of one.
"""

import hashlib
import json
import os
import sys
import threading
import zlib


def one_round(number: int) -> str:
    rows = [{"id": n, "name": f"row {n * number}", "text": "x" * (n % 700)} for n in range(60)]
    packed = zlib.compress(json.dumps(rows).encode())
    again = json.loads(zlib.decompress(packed))
    again.sort(key=lambda row: row["name"])
    return hashlib.sha256(json.dumps(again).encode()).hexdigest()


def work(number: int) -> None:
    expected[number] = one_round(number)
    while not ended.is_set():
        if one_round(number) != expected[number]:
            different.append(number)


expected: dict[int, str] = {}
different: list[int] = []
ended = threading.Event()
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
os.write(int(os.environ["READY_FD"]), b"ready\n")
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
everything = "".join(expected[number] for number in sorted(expected))
total = int(hashlib.sha256(everything.encode()).hexdigest()[:12], 16)
sys.stdout.write(f"different {len(different)}\nsum {total}\n")
