# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG text, without a plotting library. Every string that comes from data is escaped here.

Positions in the dot chart are percentages, so that it follows the width of the page while the letters keep their size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from math import ceil, floor, log10

from critic_r1_verl.foreign import visible

# The page and the chart file share one palette: :root is the html element in the page and the svg element in the file.
PALETTE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #57606a; --rule: #d8dce1; --paper: #ffffff; --panel: #f5f6f8;
  --base: #68727d; --trained: #0b5cad; --control: #9a5200; --good: #17693a; --bad: #b02318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --muted: #a3adb8; --rule: #39414a; --paper: #14171a; --panel: #1d2126;
  --base: #9aa5b1; --trained: #6fb3ff; --control: #f0a350; --good: #72d192; --bad: #ff9187; } }
"""
CHART_STYLE = """
.chart { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 13px; }
.chart text { fill: var(--ink); } .chart text.muted { fill: var(--muted); font-size: 12px; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .zero { stroke: var(--muted); stroke-width: 1.5; } .chart .paper { fill: var(--paper); }
.chart .base { stroke: var(--base); } .chart .trained { stroke: var(--trained); } .chart .control { stroke: var(--control); }
.chart .whisker { stroke-width: 2.5; stroke-linecap: round; }
.chart .mark { stroke-width: 2; } .chart .mark.base { fill: var(--paper); }
.chart .mark.trained { fill: var(--trained); } .chart .mark.control { fill: var(--control); }
.chart .curve { fill: none; stroke: var(--trained); stroke-width: 2.25; stroke-linejoin: round; }
.chart .c0 { --c: #0b5cad; } .chart .c1 { --c: #9a5200; } .chart .c2 { --c: #17693a; } .chart .c3 { --c: #8a2a8f; }
.chart .c4 { --c: #b02318; } .chart .c5 { --c: #00727a; } .chart .c6 { --c: #68727d; }
@media (prefers-color-scheme: dark) { .chart .c0 { --c: #6fb3ff; } .chart .c1 { --c: #f0a350; } .chart .c2 { --c: #72d192; }
  .chart .c3 { --c: #d79be0; } .chart .c4 { --c: #ff9187; } .chart .c5 { --c: #5cc8d0; } .chart .c6 { --c: #9aa5b1; } }
.chart .series { fill: none; stroke: var(--c); stroke-width: 2; } .chart .point { fill: var(--c); } .chart text.name { fill: var(--c); }
.chart .raw { fill: none; stroke: var(--base); stroke-width: 1; opacity: .7; }
"""

MARGIN_PERCENT = 2.0
ROW_HEIGHT = 40
LANE_HEIGHT = 11
SMOOTHING_STEPS = 5


@dataclass(frozen=True, slots=True)
class Dot:
    """A value and its interval in the dot chart, as fractions in [0, 1]; series is "base", "trained" or "control"."""

    series: str
    value: float
    low: float
    high: float


def escape(text: str) -> str:
    return escape_html(visible(text))


def _at(fraction: float) -> str:
    clipped = min(max(fraction, 0.0), 1.0)
    return f"{MARGIN_PERCENT + (100 - 2 * MARGIN_PERCENT) * clipped:.2f}%"


def _mark(series: str, x: str, y: float) -> str:
    if series == "control":
        return f'<svg x="{x}" y="{y:g}" overflow="visible"><path class="mark control" d="M0-5 5 0 0 5-5 0z"/></svg>'
    return f'<circle class="mark {series}" cx="{x}" cy="{y:g}" r="4.5"/>'


def dot_chart(rows: Sequence[tuple[str, Sequence[Dot]]], legend: Sequence[tuple[str, str]], *, file_width: int | None = None) -> str:
    """A chart with a row for each measure and, in each row, a dot with its interval for each series; the axis is from 0 to 100 %.

    rows: (label, dots); legend: (series, name) in drawing order. With file_width (pixels), the text is a complete SVG file with its style;
    without, it is a part of a page that has PALETTE and CHART_STYLE.
    """
    top, left, right = 40, _at(0), _at(1)
    row_height = ROW_HEIGHT + LANE_HEIGHT * len(legend)
    bottom = top + row_height * len(rows)
    parts = [f'<rect class="paper" width="100%" height="{bottom + 28}"/>']
    for index, (series, name) in enumerate(legend):
        x = _at(index * 0.25)
        parts.append(f'<svg x="{x}" y="16" overflow="visible">{_mark(series, "5", 0)}<text x="16" y="4.5">{escape(name)}</text></svg>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = {0.0: "start", 1.0: "end"}.get(tick, "middle")
        parts.append(f'<line class="grid" x1="{_at(tick)}" x2="{_at(tick)}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="muted" x="{_at(tick)}" y="{bottom + 17}" text-anchor="{anchor}">{100 * tick:g} %</text>')
    descriptions = []
    for index, (label, dots) in enumerate(rows):
        y = top + row_height * index
        values = " → ".join(f"{100 * dot.value:.1f}" for dot in dots if dot.series != "control")
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        # A background rectangle keeps the grid lines out of the two texts.
        parts.append(f'<rect class="paper" x="{left}" y="{y + 3}" width="{100 - 2 * MARGIN_PERCENT}%" height="20"/>')
        parts.append(f'<text x="{left}" y="{y + 18}">{escape(label)}</text>')
        parts.append(f'<text class="muted" x="{right}" y="{y + 18}" text-anchor="end">{values} %</text>')
        for lane, dot in enumerate(dots):
            lane_y = y + 32 + LANE_HEIGHT * lane
            parts.append(f'<line class="whisker {dot.series}" x1="{_at(dot.low)}" x2="{_at(dot.high)}" y1="{lane_y}" y2="{lane_y}"/>')
            parts.append(_mark(dot.series, _at(dot.value), lane_y))
        descriptions.append(f"{label}: " + ", ".join(f"{dot.series} {100 * dot.value:.1f} %" for dot in dots))
    parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    height = bottom + 28
    # Only the file has a viewBox: it is scaled as a whole, whereas in the page only the width changes.
    size = (
        f'width="{file_width}" height="{height}" viewBox="0 0 {file_width} {height}"' if file_width else f'width="100%" height="{height}"'
    )
    style = f"<style>{PALETTE}{CHART_STYLE}</style>" if file_width else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" {size}><title>Values with 95 % intervals</title>'
        f"<desc>{escape('. '.join(descriptions))}</desc>{style}{''.join(parts)}</svg>"
    )


def running_mean(values: Sequence[float]) -> list[float]:
    """For each position, the mean of the SMOOTHING_STEPS values around it; of fewer at the ends."""
    reach = SMOOTHING_STEPS // 2
    spans = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def _ceiling(value: float) -> float:
    """The next round number (1, 2, 2.5 or 5 times a power of ten) at or above a positive value; 1 for anything else."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def line_chart(label: str, points: Sequence[tuple[int, float]], *, fraction: bool) -> str:
    """A chart of values over steps, with a thin line for the values and a heavy one for their running mean.

    points: one or more (step, value); with fraction, the values are in [0, 1] and the axis is from 0 to 100 %.
    """
    left, right, top, bottom = 44, 310, 12, 122
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = (0.0, 1.0) if fraction else (min(0.0, min(values)), _ceiling(max(values)))
    span = max(steps[-1] - steps[0], 1)

    def place(step: int, value: float) -> str:
        x = left + (right - left) * (step - steps[0]) / span
        return f"{x:.1f},{bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low):.1f}"

    def amount(value: float) -> str:
        return f"{100 * value:g} %" if fraction else f"{value:g}"

    smooth = running_mean(values)
    parts = []
    for tick in (low, (low + high) / 2, high):
        y = place(steps[0], tick).partition(",")[2]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="muted" x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{amount(tick)}</text>')
    parts.append(f'<text class="muted" x="{left}" y="{bottom + 18}">step {steps[0]}</text>')
    if len(steps) > 1:
        parts.append(f'<text class="muted" x="{right}" y="{bottom + 18}" text-anchor="end">{steps[-1]}</text>')
        parts.append(f'<polyline class="raw" points="{" ".join(place(*point) for point in points)}"/>')
        parts.append(f'<polyline class="curve" points="{" ".join(map(place, steps, smooth))}"/>')
    else:
        x, _, y = place(*points[0]).partition(",")
        parts.append(f'<circle class="mark trained" cx="{x}" cy="{y}" r="3"/>')
    title = f"{label} over steps {steps[0]} to {steps[-1]}: from {smooth[0]:.3g} to {smooth[-1]:.3g}"
    return f'<svg class="chart" role="img" viewBox="0 0 320 146" width="100%"><title>{escape(title)}</title>{"".join(parts)}</svg>'


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference with its interval, and the difference of each seed, as fractions in [-1, 1]."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]


def forest_chart(labels: Sequence[str], panels: Mapping[str, Sequence[Effect | None]]) -> str:
    """A complete SVG file, 760 pixels wide: a row for each label and, in each panel, its effect with interval and seeds around zero.

    panels: by title the effects, one for each label; None is left out.
    """
    top, row_height, names_width = 44, 24, 180
    bottom, width = top + row_height * len(labels), (760 - names_width) / len(panels)
    # Room for the labels at both ends of an axis.
    half = width / 2 - 28
    rows = {label: top + row_height * index + 12 for index, label in enumerate(labels)}
    parts = [f'<rect class="paper" width="760" height="{bottom + 52}"/>']
    parts += [f'<text x="8" y="{y + 5}">{escape(label)}</text>' for label, y in rows.items()]
    described = []
    for number, (title, effects) in enumerate(panels.items()):
        shown = {label: effect for label, effect in zip(labels, effects, strict=True) if effect}
        reach = _ceiling(max((abs(end) for each in shown.values() for end in (each.low, each.high, *each.seeds)), default=0.05))
        middle = names_width + width * (number + 0.5) - 10
        at = {end: middle + half * end / reach for each in shown.values() for end in (each.value, each.low, each.high, *each.seeds)}
        parts.append(f'<text x="{middle:g}" y="18" text-anchor="middle">{escape(title)}</text>')
        for tick, name in ((-1, f"−{100 * reach:g}"), (0, "0"), (1, f"+{100 * reach:g}")):
            x = middle + half * tick
            parts.append(f'<line class="{"grid" if tick else "zero"}" x1="{x:g}" x2="{x:g}" y1="{top - 12}" y2="{bottom}"/>')
            parts.append(f'<text class="muted" x="{x:g}" y="{bottom + 17}" text-anchor="middle">{name}</text>')
        for label, effect in shown.items():
            y = rows[label]
            parts.append(f'<line class="whisker trained" x1="{at[effect.low]:.1f}" x2="{at[effect.high]:.1f}" y1="{y}" y2="{y}"/>')
            parts += [f'<circle class="point c1" cx="{at[seed]:.1f}" cy="{y - 6}" r="2"/>' for seed in effect.seeds]
            parts.append(f'<circle class="mark trained" cx="{at[effect.value]:.1f}" cy="{y}" r="4"/>')
            described.append(f"{title}, {label}: {100 * effect.value:+.1f}")
    note = "Large dots and bars: the mean and its 95 % interval over items; small dots: single seeds"
    parts.append(f'<text class="muted" x="8" y="{bottom + 42}">{note}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" width="760" viewBox="0 0 760 {bottom + 52}">'
        f"<title>{note}</title><desc>{escape('. '.join(described))}</desc><style>{PALETTE}{CHART_STYLE}</style>{''.join(parts)}</svg>"
    )


NUM_COLOURS = 7


def series_chart(label: str, curves: Mapping[str, Sequence[tuple[float, float]]], *, file_width: int | None = None) -> str:
    """A chart with a curve for each name over a logarithmic axis. label: of this axis; curves: (x > 0, share), one or more points.

    file_width as in dot_chart.
    """
    width = file_width or 760
    left, right, top, bottom = 52, width - 190, 14, 330
    points = [point for curve in curves.values() for point in curve]
    low_x, high_x = (log10(bound(x for x, _ in points)) for bound in (min, max))
    low_y, high_y = floor(min(y for _, y in points) * 20) / 20, ceil(max(y for _, y in points) * 20 + 1e-9) / 20

    def place(x: float, y: float) -> tuple[float, float]:
        across = (log10(x) - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        return left + (right - left) * across, bottom - (bottom - top) * (y - low_y) / max(high_y - low_y, 0.05)

    parts = [f'<rect class="paper" width="100%" height="{bottom + 44}"/>']
    for step in range(round((high_y - low_y) * 20) + 1):
        share = low_y + step / 20
        y = place(10**low_x, share)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="muted" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for x, anchor in ((10**low_x, "start"), (10**high_x, "end")):
        parts.append(f'<text class="muted" x="{place(x, low_y)[0]:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{x:,.0f}</text>')
    parts.append(f'<text class="muted" x="{(left + right) / 2:g}" y="{bottom + 34}" text-anchor="middle">{escape(label)}</text>')
    ends = sorted((place(*curve[-1])[1], name) for name, curve in curves.items())
    height, described = top - 16.0, []
    for y, name in ends:
        # The names stand beside the ends of their curves, at least a line apart.
        height = max(height + 16, y)
        colour = f"c{list(curves).index(name) % NUM_COLOURS}"
        where = [place(*point) for point in curves[name]]
        parts.append(f'<polyline class="series {colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in where)}"/>')
        parts += [f'<circle class="point {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in where]
        parts.append(f'<text class="name {colour}" x="{right + 12}" y="{height + 4:.1f}">{escape(name)}</text>')
        described.append(f"{name}: " + ", ".join(f"{100 * share:.1f} % at {x:,.0f}" for x, share in curves[name]))
    size = f'width="{file_width or "100%"}" viewBox="0 0 {width} {bottom + 44}"'
    style = f"<style>{PALETTE}{CHART_STYLE}</style>" if file_width else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" {size}><title>Right answers over {escape(label)}</title>'
        f"<desc>{escape('. '.join(described))}</desc>{style}{''.join(parts)}</svg>"
    )
