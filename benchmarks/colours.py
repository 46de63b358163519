"""One colour for each server and another set for the parts of a request, the same in every picture and page.

SVG and pages name the colours by CSS variables, so that each follows the light or the dark theme of its reader.
"""

from dataclasses import dataclass, replace

# What a page and its pictures are made of: (on a light page, on a dark one).
TOKENS = {
    "page": ("#ffffff", "#14171b"),
    "card": ("#f6f7f9", "#1c2025"),
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#59626d", "#a2abb6"),
    "line": ("#dde1e6", "#343a42"),
    "fill": ("#dde5ee", "#333b46"),
    "bad": ("#b3261e", "#ff8a80"),
    # Of two choices, the one to keep and the other.
    "kept": ("#59626d", "#a2abb6"),
    "other": ("#c3cad2", "#4a525c"),
}
# The client's parts in steel, waiting in grey, the server's work in plum, the model in slate.
PARTS = {
    "encode": ("#7d9aaa", "#7d9aaa"),
    "send and wait": ("#d9dee4", "#3d444d"),
    "server's own work": ("#94527f", "#c583ad"),
    "model call": ("#2f3b4c", "#dfe6ee"),
    "decode": ("#a9bfca", "#56707f"),
}


@dataclass(frozen=True)
class ServerStyle:
    """How a server is shown: its name in tables, a short one for the end of its line, colours, marker and line."""

    name: str
    short: str
    light: str
    dark: str
    marker: str
    line: str = "-"


OWN, CPP = "rnn_serving.model_server", "TensorFlow Serving (C++)"
# By the first word of a server's label and others that it has in any order; what fits most of them counts.
SERVERS = {
    "article": ServerStyle("article's Flask server", "article's", "#6b7280", "#9aa3b2", "o", "--"),
    "flask": ServerStyle("Flask endpoint, 1 worker", "Flask, 1 worker", "#0b8390", "#3cc8d4", "^"),
    # With a number of workers.
    "flask #": ServerStyle("Flask endpoint, {workers} workers", "Flask, {workers} workers", "#1d5fd0", "#6ea8ff", "s"),
    "flask gateway": ServerStyle("Flask gateway", "gateway", "#7c4ddb", "#b69cff", "D"),
    f"{OWN} rest": ServerStyle(f"{OWN}, REST", "ours, REST", "#a16207", "#f0b429", "v"),
    f"{OWN} grpc": ServerStyle(f"{OWN}, gRPC", "ours, gRPC", "#cc3d33", "#ff7b72", "P"),
    "tensorflow_model_server rest": ServerStyle(f"{CPP}, REST", "C++, REST", "#5d7300", "#c3d14a", "X"),
    "tensorflow_model_server grpc": ServerStyle(f"{CPP}, gRPC", "C++, gRPC", "#1f8a4c", "#63d07a", "*"),
    "tensorflow_model_server rest batching": ServerStyle(
        f"{CPP}, batching, REST", "C++, REST, b.", "#5d7300", "#c3d14a", "x", ":"
    ),
    "tensorflow_model_server grpc batching": ServerStyle(
        f"{CPP}, batching, gRPC", "C++, gRPC, b.", "#1f8a4c", "#63d07a", "+", ":"
    ),
}
OTHER = ("#444444", "#bbbbbb", "h")


def style_of(label):
    """Return (number of the colour, `ServerStyle`) of a server, by its label in any report."""
    words = label.lower().replace(",", "").replace("article's", "article").replace("flask endpoint", "flask").split()
    workers = next((word for word in words if word.isdigit()), "")
    words = ["#" if word.isdigit() else word for word in words]
    fits = [key for key in map(str.split, SERVERS) if words[:1] == key[:1] and set(key) <= set(words)]
    if not fits:
        return len(SERVERS), ServerStyle(label, label, *OTHER)
    key = " ".join(max(fits, key=len))
    style = SERVERS[key]
    names = {name: getattr(style, name).format(workers=workers) for name in ("name", "short")}
    return list(SERVERS).index(key), replace(style, **names)


def variable(label):
    """Return the CSS value of a server's colour."""
    return f"var(--s{style_of(label)[0]})"


def part_variable(part):
    """Return the CSS value of the colour of a part of a request."""
    return f"var(--p{list(PARTS).index(part)})"


def style_sheet():
    """Return the rules that give the variables their values on light and on dark pages."""
    light, dark = (_declarations(theme) for theme in (0, 1))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _declarations(theme):
    servers = [(style.light, style.dark) for style in SERVERS.values()] + [OTHER]
    named = dict(TOKENS)
    named |= {f"s{number}": pair for number, pair in enumerate(servers)}
    named |= {f"p{number}": pair for number, pair in enumerate(PARTS.values())}
    return " ".join(f"--{name}: {pair[theme]};" for name, pair in named.items())
