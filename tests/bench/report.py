"""What figures say: tables for the terminal and for the README, and a picture.

In: a result, which is what `bench.py` writes as JSON and nothing else. Out: text. So a report can be made again from the JSON of
another day, and tested without measuring.

A ratio is the median of the ratios of all pairs, never the ratio of medians: the two figures of a pair had the same weather.
"""

import statistics
from dataclasses import dataclass
from html import escape
from typing import Any

Result = dict[str, Any]

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

UNITS = {"cpu_us": "µs", "memory": "MB", "connection_bytes": "B", "p99_us": "µs", "failures": "", "scaling": "×"}
WORDS = {**dict.fromkeys(UNITS, ""), "cpu_us": "CPU", "memory": "memory", "connection_bytes": "each", "p99_us": "p99"}


@dataclass(frozen=True)
class Spread:
    """A median, and the lowest and highest it is the median of."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Verdict:
    """What a scenario came to: in words, and whether its target is met."""

    said: str
    met: bool


def spread(pairs: list[Any], figure: str) -> Spread | None:
    """Ratios of a figure, a over b; `None` where there is none to divide."""
    ratios = [pair["a"][figure] / pair["b"][figure] for pair in pairs if pair["a"].get(figure) and pair["b"].get(figure)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def median(pairs: list[Any], side: str, figure: str) -> float | None:
    values = [pair[side][figure] for pair in pairs if pair[side].get(figure) is not None]
    return statistics.median(values) if values else None


def drift(pairs: list[Any], figure: str) -> float:
    """What a's figure is at the end over what it was at the beginning: medians of the last third and of the first, the very
    first left out, for caches fill then."""
    values: list[float] = [pair["a"][figure] for pair in pairs[1:]] or [pair["a"][figure] for pair in pairs]
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) / statistics.median(values[:third])


def judge(scenario: Result) -> Verdict:
    pairs, target, figures = scenario["pairs"], scenario["target"], scenario["figures"]
    if scenario["fault"]:
        return Verdict("failed", False)
    if scenario["rule"] == "ratio":
        spreads = {figure: spread(pairs, figure) for figure in figures}
        if missing := [figure for figure, found in spreads.items() if found is None]:
            return Verdict(f"no {missing[0]}", False)
        said = ", ".join(f"{WORDS[figure]} {found}" if len(spreads) > 1 else str(found) for figure, found in spreads.items())
        return Verdict(said, all(found.median <= target for found in spreads.values() if found))
    if scenario["rule"] == "count":
        total = sum(pair["a"][figures[0]] for pair in pairs)
        return Verdict(f"{total:.0f} in all", total <= target)
    if scenario["rule"] == "least":
        least = median(pairs, "a", figures[0])
        return Verdict(f"{least or 0:.2f}", least is not None and least >= target)
    drifts = {figure: drift(pairs, figure) for figure in figures}
    said = ", ".join(f"{WORDS[figure]} {found:.2f}" for figure, found in drifts.items())
    return Verdict(said, all(found <= target for found in drifts.values()))


def target(scenario: Result) -> str:
    if scenario["rule"] == "count":
        return f"{scenario['target']:.0f}"
    return f"{'≥' if scenario['rule'] == 'least' else '≤'} {scenario['target']:.2f}"


def amount(value: float | None, figure: str) -> str:
    """A figure with its unit."""
    if value is None:
        return "–"
    if figure == "memory":
        value /= 1 << 20
    number = f"{value:,.0f}" if value >= 100 or figure == "failures" else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{number} {UNITS[figure]}".strip()


def cells(scenario: Result) -> list[str]:
    """A row of either table."""
    verdict = judge(scenario)
    pairs, figure = scenario["pairs"], scenario["figures"][0]
    least = spread(scenario["floor"], figure)
    more = [spread(pairs, name) for name in ("rate", "p99_us", "memory")]
    return [
        scenario["name"],
        amount(median(pairs, "a", figure), figure),
        amount(median(pairs, "b", figure), figure),
        verdict.said,
        target(scenario),
        f"{least.median:.2f}" if least else "–",
        "yes" if verdict.met else "no",
        *(f"{found.median:.2f}" if found else "–" for found in more),
    ]


def heads(result: Result) -> list[str]:
    a, b = (result["versions"][side] for side in "ab")
    return ["scenario", a, b, "ratio", "target", "floor", "met", "requests/s", "p99", "memory"]


def table(result: Result) -> str:
    """For the terminal."""
    rows = [heads(result), *(cells(scenario) for scenario in result["scenarios"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    faults = [f"{scenario['name']}: {scenario['fault']}" for scenario in result["scenarios"] if scenario["fault"]]
    return "\n".join([*lines, summary(result), *faults])


def summary(result: Result) -> str:
    met = sum(judge(scenario).met for scenario in result["scenarios"])
    return f"{met} of {len(result['scenarios'])} targets are met"


def conditions(result: Result) -> str:
    """When, where and with what."""
    machine, method, versions = result["machine"], result["method"], result["versions"]
    return (
        f"{result['date']}, {machine['processor']}, {machine['processors']} processors, Linux {result['kernel']} with {machine['congestion']}, files on {machine['files']}; "
        f"{versions['a']} against {versions['b']}, {versions['wrk']}, {versions['h2load']}; "
        f"{method['rounds']} pairs of {method['seconds']:g} s"
    )


def markdown(result: Result) -> str:
    """For the README: picture, conditions, table."""
    a, b = (result["versions"][side] for side in "ab")
    rows = [heads(result), ["---"] * 10, *(cells(scenario) for scenario in result["scenarios"])]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(
        [
            f"![Processor time per request, {a} over {b}](docs/bench.svg)",
            "",
            f"{conditions(result)}. The first two columns are processor time per request where nothing else is said; ratios "
            f"are {a} over {b}, medians of pairs with the lowest and the highest, and lower is better, but for requests/s. "
            f"The floor is the ratio of a program that only makes the system calls of the answer "
            f"([bench](tests/bench/README.md)). {summary(result)}.",
            "",
            *lines,
        ]
    )


def put_between(text: str, content: str) -> str:
    """The text with this content between its markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"there must be one {BEGIN} and one {END} behind it")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


# ---- the picture

LABEL, SCALE, ROW, TOP = 190, 420, 22, 64
FULL = 1.3  # the longest bar; what is longer ends there and says its number

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
.met { fill: #2f7d5b; }
.missed { fill: #c2571a; }
.floor { stroke: #59636e; stroke-width: 2; stroke-dasharray: 2 2; }
.line { stroke: #1f2328; stroke-width: 1; }
.target { stroke: #1f2328; stroke-width: 2; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .met { fill: #46a37a; }
  .missed { fill: #e0793a; }
  .floor { stroke: #9198a1; }
  .line, .target { stroke: #f0f6fc; }
  .grid { stroke: #3d444d; }
}
"""


def picture(result: Result) -> str:
    """A bar for each ratio, a line at 1.0, and a mark at each target."""
    a, b = (escape(result["versions"][side]) for side in "ab")
    rows = []
    for scenario in result["scenarios"]:
        is_ratio = scenario["rule"] == "ratio" and not scenario["fault"]
        if is_ratio and (found := spread(scenario["pairs"], scenario["figures"][0])):
            rows.append((scenario, found))
    height, width = TOP + ROW * len(rows) + 30, LABEL + SCALE + 70
    bottom = TOP + ROW * len(rows)

    def at(ratio: float) -> float:
        return round(LABEL + SCALE * min(ratio, FULL) / FULL, 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{a} over {b}</title>",
        "<desc>" + "; ".join(f"{escape(scenario['name'])} {found.median:.2f}" for scenario, found in rows) + "</desc>",
        f"<style>{STYLE}</style>",
        f'<text x="8" y="22">{a} over {b}: processor time per request</text>',
        '<text class="small" x="8" y="40">shorter is better; a mark is the target, a dotted one the floor; idle connections: memory; p99: latency</text>',
    ]
    for tenths in (0, 25, 50, 75, 100, 125):
        x = at(tenths / 100)
        lines.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
        lines.append(f'<text class="small" x="{x}" y="{bottom + 16}" text-anchor="middle">{tenths / 100:g}</text>')
    for number, (scenario, found) in enumerate(rows):
        y = TOP + ROW * number
        kind = "met" if judge(scenario).met else "missed"
        end, mark = at(found.median), at(scenario["target"])
        lines.append(f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(scenario["name"])}</text>')
        lines.append(f'<rect class="{kind}" x="{LABEL}" y="{y + 4}" width="{round(end - LABEL, 1)}" height="{ROW - 8}"/>')
        lines.append(f'<line class="target" x1="{mark}" y1="{y + 2}" x2="{mark}" y2="{y + ROW - 2}"/>')
        behind = max(end, mark)
        if least := spread(scenario["floor"], scenario["figures"][0]):
            floor = at(least.median)
            behind = max(behind, floor)
            lines.append(f'<line class="floor" x1="{floor}" y1="{y + 2}" x2="{floor}" y2="{y + ROW - 2}"/>')
        lines.append(f'<text x="{behind + 6}" y="{y + 15}">{found.median:.2f}</text>')
    lines.append(f'<line class="line" x1="{at(1.0)}" y1="{TOP - 6}" x2="{at(1.0)}" y2="{bottom}"/>')
    lines.append("</svg>")
    return "\n".join(lines) + "\n"
