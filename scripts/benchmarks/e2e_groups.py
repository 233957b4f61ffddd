"""What is measured of a running application: one function for each group of figures, which prints its table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from scripts.benchmarks.e2e_client import TEXT, Client, together, voice
from scripts.benchmarks.e2e_figures import Answer, Figures, median, quantile, stage_split, table
from scripts.benchmarks.e2e_in_process import InProcess
from serve_app.schemas import SpeechRequest

HOPS = 3  # proxy to ingress, ingress to language model and to vocoder; a known voice needs no encoder
UNDERRUN_S = 0.1
STAGES = ("encode", "queue", "llm", "vocode", "other", "http")


@dataclass(frozen=True)
class Plan:
    """How much to measure. Tokens are at most so many: random weights may end earlier."""

    repeats: int
    tokens: int
    stream_tokens: int
    levels: tuple[int, ...]
    rounds: int
    concurrent: int


async def first_audio(client: Client, plan: Plan) -> Figures:
    """One stream at a time, known voices: when the first audio comes."""
    answers, _ = await together(lambda: client.stream(plan.tokens // 2), 1, 2 * plan.repeats)
    firsts = [1000 * answer.first for answer in answers]
    figures = {"p50_ms": median(firsts), "p95_ms": quantile(firsts, 0.95), "rtf": median([a.rtf for a in answers])}
    figures["first_chunk_s"] = median([answer.chunks[0].seconds for answer in answers])
    columns = ("requests", "first audio p50, ms", "p95, ms", "first chunk, s of audio", "RTF of all")
    row = (len(answers), figures["p50_ms"], figures["p95_ms"], figures["first_chunk_s"], figures["rtf"])
    print(table("First audio, one stream at a time, known voice", columns, [row]), flush=True)
    return figures


async def whole(client: Client, plan: Plan) -> Figures:
    """One file at a time: a clip never seen before, and a known voice; where the time goes."""
    figures: Figures = {}
    rows = []
    for kind, ask in (("cold", client.cold), ("known", client.whole)):
        answers, _ = await together(_asking(ask, plan.tokens), 1, plan.repeats)
        stages = stage_split(answers)
        figures[kind] = _figures(answers) | {"stages_ms": stages}
        parts = [stages[name] for name in STAGES]
        rows.append((kind, *(figures[kind][name] for name in ("audio_s", "total_ms", "rtf", "rtf_p95")), *parts))
    columns = ("voice", "audio, s", "total, ms", "RTF p50", "RTF p95", *(f"{name}, ms" for name in STAGES))
    print(table("Whole request, one at a time", columns, rows), flush=True)
    return figures


def _asking(ask: Callable[[int], Awaitable[Answer]], tokens: int) -> Callable[[], Awaitable[Answer]]:
    return lambda: ask(tokens)


def _figures(answers: list[Answer]) -> Figures:
    return {
        "requests": len(answers),
        "audio_s": median([answer.duration for answer in answers]),
        "total_ms": 1000 * median([answer.total for answer in answers]),
        "rtf": median([answer.rtf for answer in answers]),
        "rtf_p95": quantile([answer.rtf for answer in answers], 0.95),
    }


async def streams(client: Client, plan: Plan) -> list[Figures]:
    """So many streams at once, known voices, for each number after a round that does not count."""
    rows: list[Figures] = []
    try:
        for level in plan.levels:
            await together(lambda: client.stream(plan.stream_tokens), level, 1)
            rounds = max(plan.rounds, 4 // level)
            answers, took = await together(lambda: client.stream(plan.stream_tokens), level, rounds)
            rows.append({"streams": level, "requests": len(answers)} | _streamed(answers, took))
    finally:
        _print_streams(rows)
    return rows


def _print_streams(rows: list[Figures]) -> None:
    columns = ["streams", "requests", "audio s/s", "audio, s", "first p50, ms", "p95, ms", "largest gap, ms"]
    columns += ["underrun p90, ms", f"share without > {1000 * UNDERRUN_S:g} ms"]
    print(table("Streams at once, known voices", columns, [list(row.values()) for row in rows]), flush=True)


def _streamed(answers: list[Answer], took: float) -> Figures:
    firsts = [1000 * answer.first for answer in answers]
    underruns = [answer.underrun for answer in answers]
    return {
        "audio_per_s": sum(answer.duration for answer in answers) / took,
        "audio_s": median([answer.duration for answer in answers]),
        "p50_ms": median(firsts),
        "p95_ms": quantile(firsts, 0.95),
        "gap_ms": 1000 * max(answer.largest_gap for answer in answers),
        "underrun_p90_ms": 1000 * quantile(underruns, 0.9),
        "no_underrun": sum(underrun <= UNDERRUN_S for underrun in underruns) / len(underruns),
    }


async def throughput(client: Client, plan: Plan) -> Figures:
    """Whole requests, known voices: several at once against one at a time."""
    many = plan.concurrent
    await together(_asking(client.whole, plan.tokens), many, 1)
    alone, alone_s = await together(_asking(client.whole, plan.tokens), 1, max(2, plan.repeats // 2))
    answers, took = await together(_asking(client.whole, plan.tokens), many, max(1, plan.repeats // 4))
    speeds = [sum(a.duration for a in some) / seconds for some, seconds in ((alone, alone_s), (answers, took))]
    figures = {"alone": speeds[0], "together": speeds[1], "ratio": speeds[1] / speeds[0], "concurrent": many}
    figures["rtf"] = median([answer.rtf for answer in answers])
    columns = ("at once", "audio s/s one at a time", "audio s/s", "ratio", "RTF of one")
    print(table("Whole requests at once, known voices", columns, [(many, *speeds, figures["ratio"], figures["rtf"])]))
    return figures


async def overhead(client: Client, plan: Plan, plain: InProcess) -> Figures:
    """The same requests with and without Serve, in turns: what Serve, Ray and HTTP add to each hop."""
    served, direct = [], []
    for number in range(plan.repeats + 2):
        fields = {"input": TEXT, "voice": voice(number), "seed": 7, "max_new_tokens": 25, "response_format": "wav"}
        body = SpeechRequest.model_validate(fields)
        await plain.seconds(body)
        direct.append(await plain.seconds(body))
        served.append((await client.ask(fields)).total)
    difference = median([1000 * (a - b) for a, b in zip(served[2:], direct[2:], strict=True)])
    figures = {"served_ms": 1000 * median(served[2:]), "direct_ms": 1000 * median(direct[2:])}
    figures |= {"added_ms": difference, "per_hop_ms": difference / HOPS}
    columns = ("through Serve, ms", "in one process, ms", "added, ms", f"per hop of {HOPS}, ms")
    print(table("A request of 25 tokens with and without Serve, p50", columns, [tuple(figures.values())]), flush=True)
    return figures
