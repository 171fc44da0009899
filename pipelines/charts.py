"""Small charts as inline SVG, a training curve and intervals side by side; tables as Markdown."""

import html
from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 640, 200, 46
BAR_HEIGHT, LABEL_WIDTH = 30, 230
INK, ACCENT, GRID = "#1c2430", "#2563eb", "#d5dae1"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def curve_svg(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Draw one line over epochs; a note where there is nothing to draw."""
    name = html.escape(title)
    if not points:
        return f"<p>No {name} was recorded.</p>"
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    low, high = min(ys), max(ys)
    span_x, span_y = max(max(xs) - min(xs), 1e-9), max(high - low, 1e-9)
    placed = [
        (
            MARGIN + (x - min(xs)) / span_x * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN + 16 - (y - low) / span_y * (HEIGHT - 2 * MARGIN + 16),
        )
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{ACCENT}'/>" for x, y in placed
    )
    base = HEIGHT - MARGIN + 22
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{name}' font-size='12'>"
        f"<text x='{MARGIN}' y='16' fill='{INK}' font-weight='600'>{name}</text>"
        f"<line x1='{MARGIN}' x2='{WIDTH - MARGIN}' y1='{base}' y2='{base}' stroke='{GRID}'/>"
        f"<polyline points='{line}' fill='none' stroke='{ACCENT}' stroke-width='2'/>{dots}"
        f"<text x='4' y='{placed_y(placed, ys.index(high)):.1f}' fill='{INK}'>{high:.3f}</text>"
        f"<text x='4' y='{placed_y(placed, ys.index(low)):.1f}' fill='{INK}'>{low:.3f}</text>"
        f"<text x='{MARGIN}' y='{HEIGHT - 6}' fill='{INK}'>epoch {xs[0]:g}</text>"
        f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - 6}' fill='{INK}' text-anchor='end'>{xs[-1]:g}"
        "</text></svg>"
    )


def placed_y(placed: Sequence[tuple[float, float]], index: int) -> float:
    """The baseline of a label beside a point."""
    return placed[index][1] + 4


def interval_svg(rows: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """Draw a dot with its interval per (label, value, low, high)."""
    top = max([high if high is not None else value for _, value, _, high in rows] + [1e-9])
    scale = (WIDTH - LABEL_WIDTH - 90) / top
    parts = []
    for place, (label, value, low, high) in enumerate(rows):
        y = place * BAR_HEIGHT + BAR_HEIGHT / 2
        x = LABEL_WIDTH + max(value, 0.0) * scale
        left = LABEL_WIDTH + max(value if low is None else low, 0.0) * scale
        right = LABEL_WIDTH + max(value if high is None else high, 0.0) * scale
        parts.append(
            f"<text x='0' y='{y + 4:.1f}' fill='{INK}'>{html.escape(label)}</text>"
            f"<line x1='{left:.1f}' x2='{right:.1f}' y1='{y}' y2='{y}' stroke='{ACCENT}' "
            "stroke-width='3' stroke-opacity='.35'/>"
            f"<circle cx='{x:.1f}' cy='{y}' r='4' fill='{ACCENT}'/>"
            f"<text x='{right + 10:.1f}' y='{y + 4:.1f}' fill='{INK}'>{value:.4f}</text>"
        )
    height = len(rows) * BAR_HEIGHT + 4
    return (
        f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='NDCG@10' font-size='13'>"
        f"{''.join(parts)}</svg>"
    )
