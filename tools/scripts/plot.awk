# Draws lines from tab-separated points as one self-contained SVG on stdout.
#
#   awk -f plot.awk [-v title=T] [-v x_label=X] [-v y_label=Y] [-v x_log=1] [-v y_log=1] POINTS
#
# A row is: series, x, y. Series are drawn in the order in which they first appear, and their points
# in the order of their rows. A point without a place on a logarithmic axis (zero, negative) is left
# out. Exit status 1, with a line on stderr, for a row that is no point, or for none at all.
#
# The background is left transparent and every colour is of middle lightness, so that the same file
# can be read on a light page and on a dark one. Any awk of POSIX will do.

function log10(v) {
    return log(v) / log(10)
}
function floor(v) {
    return v < int(v) ? int(v) - 1 : int(v)
}
function ceil(v) {
    return -floor(-v)
}
function escape(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    gsub(/"/, "\\&quot;", text)
    return text
}
function fail(message) {
    print "plot: " message >"/dev/stderr"
    failed = 1
    exit 1
}

# --- axes: an axis is "x" or "y" in the arrays log_of, low, high, step, and in ticks ----------------

# The value's place on the axis, from 0 to 1.
function share(axis, v) {
    if (log_of[axis])
        return (log(v) - log(low[axis])) / (log(high[axis]) - log(low[axis]))
    return (v - low[axis]) / (high[axis] - low[axis])
}
function tick_add(axis, v, label) {
    ticks[axis]++
    tick_at[axis, ticks[axis]] = v
    tick_label[axis, ticks[axis]] = label
}
# Round steps, about six of them, from one at or below the least value to one at or above the most.
function axis_linear(axis,    span, power, decimals, first, last, i) {
    span = high[axis] - low[axis]
    if (span <= 0)
        span = low[axis] != 0 ? (low[axis] < 0 ? -low[axis] : low[axis]) : 1
    power = 10 ^ floor(log10(span / 6))
    step = power
    if (span / step > 12) step = 5 * power
    else if (span / step > 6) step = 2 * power
    # A hair, because 0.3 / 0.1 is a little less than 3.
    first = floor(low[axis] / step + 1e-9)
    last = ceil(high[axis] / step - 1e-9)
    if (last == first) last++
    decimals = step < 1 ? ceil(-log10(step) - 1e-9) : 0
    for (i = first; i <= last; i++)
        tick_add(axis, i * step, sprintf("%.*f", decimals, i * step))
    low[axis] = first * step
    high[axis] = last * step
}
# Powers of ten, and what lies between them as far as there is room.
function axis_log(axis,    decades, digits, n, digit, power, i, v) {
    low[axis] /= 1.1
    high[axis] *= 1.1
    decades = log10(high[axis] / low[axis])
    n = split(decades > 3 ? "1" : decades > 1.5 ? "1 2 5" : "1 1.5 2 3 4 5 6 8", digits, " ")
    for (power = floor(log10(low[axis])); power <= log10(high[axis]); power++)
        for (i = 1; i <= n; i++) {
            digit = digits[i]
            v = digit * 10 ^ power
            if (v >= low[axis] && v <= high[axis])
                tick_add(axis, v, v >= 1e6 || v < 1e-3 ? sprintf("%g", v) : v "")
        }
}
function x_of(v) {
    return left + share("x", v) * (right - left)
}
function y_of(v) {
    return bottom - share("y", v) * (bottom - top)
}

# --- drawing ----------------------------------------------------------------------------------------

function put_text(x, y, class, content, more) {
    printf "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\"%s>%s</text>\n", x, y, class, more, escape(content)
}
function put_line(x1, y1, x2, y2, class) {
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, class
}
# Shapes differ as well as colours.
function marker(s, x, y, hint,    shape, path) {
    shape = (s - 1) % 4
    if (shape == 0) path = "M%.1f %.1fm-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"
    else if (shape == 1) path = "M%.1f %.1fm-3.5 -3.5h7v7h-7z"
    else if (shape == 2) path = "M%.1f %.1fm0 -4.6l4.4 7.6h-8.8z"
    else path = "M%.1f %.1fm0 -5l5 5l-5 5l-5 -5z"
    printf "<path d=\"" path "\" fill=\"%s\">", x, y, colour[(s - 1) % colours + 1]
    printf "%s</path>\n", (hint != "" ? "<title>" escape(hint) "</title>" : "")
}
function draw_axes(    i, at) {
    for (i = 1; i <= ticks["x"]; i++) {
        at = x_of(tick_at["x", i])
        put_line(at, top, at, bottom, "grid")
        put_line(at, bottom, at, bottom + 5, "axis")
        put_text(at, bottom + 19, "tick", tick_label["x", i], " text-anchor=\"middle\"")
    }
    for (i = 1; i <= ticks["y"]; i++) {
        at = y_of(tick_at["y", i])
        put_line(left, at, right, at, "grid")
        put_line(left - 5, at, left, at, "axis")
        put_text(left - 9, at + 4, "tick", tick_label["y", i], " text-anchor=\"end\"")
    }
    put_line(left, bottom, right, bottom, "axis")
    put_line(left, top, left, bottom, "axis")
    put_text((left + right) / 2, bottom + 42, "label", x_label, " text-anchor=\"middle\"")
    at = (top + bottom) / 2
    put_text(16, at, "label", y_label,
        sprintf(" text-anchor=\"middle\" transform=\"rotate(-90 16 %.1f)\"", at))
    put_text(left, 24, "title", title, "")
}
function draw_series(s,    i, places, c) {
    c = colour[(s - 1) % colours + 1]
    for (i = 1; i <= points[s]; i++)
        places = places sprintf("%s%.1f,%.1f", i > 1 ? " " : "", x_of(point_x[s, i]), y_of(point_y[s, i]))
    printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s/>\n", places, c,
        (s > colours ? " stroke-dasharray=\"6 3\"" : "")
    for (i = 1; i <= points[s]; i++)
        marker(s, x_of(point_x[s, i]), y_of(point_y[s, i]), name[s] ": " point_x[s, i] ", " point_y[s, i])
    # The legend, beside the plot, where no line can be.
    i = top + 8 + 22 * (s - 1)
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"/>\n",
        right + 18, i, right + 42, i, c
    marker(s, right + 30, i, "")
    put_text(right + 50, i + 4, "legend", name[s], "")
}

BEGIN {
    FS = "\t"
    colours = split("#0a84d6 #d9651c #1f9e77 #c2509a #8a63d2 #a8851a #d64545 #4f8fa8", colour, " ")
    log_of["x"] = x_log + 0
    log_of["y"] = y_log + 0
    number = "^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$"
}
{
    if (NF != 3 || $2 !~ number || $3 !~ number)
        fail("line " NR ": wanted a series and two numbers, tabs between")
    if ((log_of["x"] && $2 <= 0) || (log_of["y"] && $3 <= 0))
        next
    if (!($1 in series_of)) {
        series_of[$1] = ++series
        name[series] = $1
        if (length($1) > longest) longest = length($1)
    }
    s = series_of[$1]
    points[s]++
    point_x[s, points[s]] = $2 + 0
    point_y[s, points[s]] = $3 + 0
    if (!total++) {
        low["x"] = high["x"] = $2 + 0
        low["y"] = high["y"] = $3 + 0
    }
    if ($2 < low["x"]) low["x"] = $2 + 0
    if ($2 > high["x"]) high["x"] = $2 + 0
    if ($3 < low["y"]) low["y"] = $3 + 0
    if ($3 > high["y"]) high["y"] = $3 + 0
}
END {
    if (failed)
        exit 1
    if (!total)
        fail("no points")
    if (log_of["x"]) axis_log("x"); else axis_linear("x")
    if (log_of["y"]) axis_log("y"); else axis_linear("y")

    left = 76; right = left + 560; top = 44
    bottom = top + 340
    if (bottom < top + 22 * series) bottom = top + 22 * series
    width = right + 66 + 7 * longest
    height = bottom + 58
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\"",
        width, height, width, height
    print " font-family=\"system-ui, sans-serif\" font-size=\"13\">"
    print "<style>text{fill:#787878}.title{font-size:16px;font-weight:600}.label{font-size:14px}"
    print ".grid{stroke:#808080;stroke-opacity:.25}.axis{stroke:#808080}</style>"
    print "<title>" escape(title) "</title>"
    draw_axes()
    for (s = 1; s <= series; s++)
        draw_series(s)
    print "</svg>"
}
