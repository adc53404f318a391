"""A server under load, on this machine: throughput, time to the first token and time a token, as clients see them.

    python bench/serving.py [MODEL] [--seconds 20] [--soak 300] [--threads N]

It starts `vesalius serve` on a free port of 127.0.0.1, and one asyncio client asks: a closed loop of 1, 4, 16, 32 and
64 users, each of whom asks again when answered; an open loop of Poisson arrivals at half and at all of what the closed
loop reached; ten times the queue at once, where everything beyond it must be refused with 429 and memory stay flat; and
a soak of users who leave in the middle, after which no block may be in use. All numbers of requests are bounded.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from vesalius.core.hardware import hardware_line

USERS, NEW_TOKENS = (1, 4, 16, 32, 64), 64
QUEUE, OVERLOAD = 32, 10
QUESTION = "Number {}. Write a few sentences about the history of science, and of what came before it."


@dataclass
class Seen:
    """What clients have seen: seconds to first tokens, seconds a token, tokens, and statuses."""

    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    def line(self, name: str, seconds: float) -> str:
        """Percentiles 50, 95 and 99 in milliseconds."""
        firsts, eaches = (" ".join(f"{p * 1e3:6.0f}" for p in percentiles(x)) for x in (self.first, self.each))
        return (
            f"{name:22s} {self.tokens / seconds:7.1f} tok/s   first {firsts}   each {eaches} ms   {dict(self.statuses)}"
        )


def percentiles(values: list[float]) -> list[float]:
    cuts = statistics.quantiles(values, n=100) if len(values) > 1 else [*values, 0.0][:1] * 99
    return [cuts[49], cuts[94], cuts[98]]


class Load:
    """Asks one server."""

    def __init__(self, address: str) -> None:
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=address, timeout=600, limits=limits)
        self._number = 0

    async def ask(self, seen: Seen, *, leave_after: int | None = None) -> None:
        """One streamed answer; `leave_after` so many tokens the client hangs up."""
        self._number += 1
        body = {
            "messages": [{"role": "user", "content": QUESTION.format(self._number)}],
            "max_tokens": NEW_TOKENS,
            "model": "bench",
            "stream": True,
            "temperature": 0.7,
        }
        start = last = time.perf_counter()
        count = 0
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            seen.statuses[response.status_code] += 1
            if response.status_code != 200:
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {") or '"content"' not in line:
                    continue
                now = time.perf_counter()
                (seen.each if count else seen.first).append(now - (last if count else start))
                last, count = now, count + 1
                if leave_after is not None and count >= leave_after:
                    break
        seen.tokens += count

    async def closed(self, users: int, seconds: float) -> Seen:
        """Each user asks, waits for the whole answer, and asks again."""
        seen, end = Seen(), time.perf_counter() + seconds

        async def user() -> None:
            while time.perf_counter() < end:
                await self.ask(seen)

        await asyncio.gather(*(user() for _ in range(users)))
        return seen

    async def open(self, rate: float, seconds: float) -> Seen:
        """Requests arrive at `rate` a second, whether earlier ones are answered or not."""
        seen, tasks, draw = Seen(), [], random.Random(0)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            tasks.append(asyncio.create_task(self.ask(seen)))
            await asyncio.sleep(draw.expovariate(rate))
        await asyncio.gather(*tasks)
        return seen

    async def at_once(self, count: int) -> Seen:
        seen = Seen()
        await asyncio.gather(*(self.ask(seen) for _ in range(count)))
        return seen

    async def soak(self, users: int, seconds: float) -> Seen:
        """Users who leave after a random number of tokens, half of the time."""
        seen, end, draw = Seen(), time.perf_counter() + seconds, random.Random(1)

        async def user() -> None:
            while time.perf_counter() < end:
                await self.ask(seen, leave_after=draw.choice([None, draw.randint(1, NEW_TOKENS)]))

        await asyncio.gather(*(user() for _ in range(users)))
        return seen

    async def metric(self, name: str) -> float:
        text = (await self._client.get("/metrics")).text
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found.group(1))


async def measure(address: str, pid: int, seconds: float, soak: float) -> None:
    load, best = Load(address), 0.0
    await load.closed(2, 2)  # warms up
    for users in USERS:
        start = time.perf_counter()
        seen = await load.closed(users, seconds)
        took = time.perf_counter() - start
        best = max(best, len(seen.first) / took)
        print(seen.line(f"closed, {users} users", took), flush=True)
    for share in (0.5, 1.0):
        start = time.perf_counter()
        seen = await load.open(best * share, seconds)
        print(seen.line(f"open, {best * share:.2f} a second", time.perf_counter() - start), flush=True)
    before, start = memory(pid), time.perf_counter()
    seen = await load.at_once(OVERLOAD * (QUEUE + USERS[-1]))
    took = time.perf_counter() - start
    print(seen.line(f"{sum(seen.statuses.values())} at once", took), f"memory {before:.0f} -> {memory(pid):.0f} MiB")
    if soak:
        before, start = memory(pid), time.perf_counter()
        seen = await load.soak(24, soak)
        print(
            seen.line(f"soak, {soak:.0f} s", time.perf_counter() - start),
            f"memory {before:.0f} -> {memory(pid):.0f} MiB",
        )
    await asyncio.sleep(1)
    left = await load.metric("vesalius_cache_use_ratio"), await load.metric("vesalius_running")
    print(f"in the end: {left[0]:.0%} of the blocks in use, {left[1]:.0f} running")


def memory(pid: int) -> float:
    """MiB that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=float, default=300.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    words = ["serve", options.model, "--port", "0", "--name", "bench", "--set", f"max_queue={QUEUE}"]
    command = [sys.executable, "-m", "vesalius.cli", *words, "--threads", str(options.threads)]
    print(hardware_line())
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            told = next(line for line in server.stderr if "http://" in line)
            address = re.search(r"http://[\d.:]+", told)
            assert address, told
            drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
            asyncio.run(measure(address.group(), server.pid, options.seconds, options.soak))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
            drain.wait(timeout=10)


if __name__ == "__main__":
    main()
