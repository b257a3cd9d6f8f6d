"""Small plots as SVG, on logarithmic scales."""

import math

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 210, 52, 34, 30
INK, LINE = "#444", "#2563a8"


def nice(value):
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def scale(values):
    """From value to 0..1, with the ticks; whole powers of ten where there is more than one, else the values' own range."""
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = (low - 0.15, high + 0.15) if high - low < 1 else (math.floor(low), math.ceil(high))
    whole = [10.0**e for e in range(math.ceil(low), math.floor(high) + 1)]
    return (lambda v: (math.log10(v) - low) / (high - low)), whole or [min(values), max(values)]


def panel(x0, title, points):
    """One plot: (x, y) with a line between them."""
    to_x, x_ticks = scale([x for x, _ in points])
    to_y, y_ticks = scale([y for _, y in points])
    place = lambda x, y: (x0 + LEFT + to_x(x) * (WIDTH - LEFT - 16), HEIGHT - BOTTOM - to_y(y) * (HEIGHT - BOTTOM - TOP))
    out = [f'<text x="{x0 + LEFT}" y="16" font-weight="bold" fill="{INK}">{title}</text>']
    left, right, floor = x0 + LEFT, x0 + WIDTH - 16, HEIGHT - BOTTOM
    out.append(f'<path d="M{left} {TOP}V{floor}H{right}" fill="none" stroke="{INK}"/>')
    for tick in x_ticks:
        x = place(tick, points[0][1])[0]
        out.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle" fill="{INK}">{nice(tick)}</text>')
    for tick in y_ticks:
        y = place(points[0][0], tick)[1]
        out.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">{nice(float(f"{tick:.2g}"))}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    out.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for x, y in points:
        px, py = place(x, y)
        label = nice(float(f"{y:.3g}"))
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{LINE}"/>')
        out.append(f'<text x="{px:.1f}" y="{py - 8:.1f}" text-anchor="middle" fill="{LINE}">{label}</text>')
    return out


def panels(plots):
    """Plots beside each other; each a title and its points."""
    body = [line for i, (title, points) in enumerate(plots) for line in panel(i * WIDTH, title, points)]
    size = f'width="{WIDTH * len(plots)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(plots)} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *body, "</svg>", ""])
