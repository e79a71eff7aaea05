"""The style of the page: colours for light and dark, a table that is cards on a phone. It needs no file and no font."""

#: Colours by their names: for a light and a dark scheme.
LIGHT = {
    "bg": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#1b1f24",
    "soft": "#5b6672",
    "line": "#e1e5ea",
    "good": "#1f7a3d",
    "warn": "#8a5200",
    "bad": "#b3261e",
    "badbg": "#fdeceb",
    "bar": "#6a8299",
    "link": "#0b57a4",
    "code": "#eef1f4",
}
DARK = {
    "bg": "#111418",
    "card": "#1a1f25",
    "ink": "#e6e9ed",
    "soft": "#9aa6b2",
    "line": "#2b323a",
    "good": "#5fc983",
    "warn": "#f0b45a",
    "bad": "#ff8a80",
    "badbg": "#3a1d1c",
    "bar": "#7c92a8",
    "link": "#8ab8f0",
    "code": "#262d35",
}
#: Where each colour of a text is used: on which backgrounds.
TEXTS = {
    "ink": ("bg", "card", "badbg", "code"),
    "soft": ("bg", "card", "badbg"),
    "good": ("card", "badbg"),
    "warn": ("bg", "card", "badbg"),
    "bad": ("bg", "card", "badbg"),
    "link": ("bg", "card", "badbg"),
}
#: Colours of parts of plots, which have to be seen on a background, and of the signs.
PARTS = {"bar": ("card", "badbg", "bg"), "warn": ("card", "badbg"), "bad": ("card", "badbg"), "soft": ("card", "badbg")}

_RULES = """\
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:1280px;margin:0 auto;padding:0 20px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 20px;padding-top:20px}
h1{font-size:22px;margin:0}
h2{font-size:17px;margin:28px 0 8px}
h2 small{display:inline;font-weight:400;margin-left:8px}
p{margin:0}
header p{margin-left:auto}
a{color:var(--link)}
a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
small,.q{color:var(--soft)}
small{display:block;font-size:12.5px}
.x{color:var(--bad)}.w{color:var(--warn)}.g{color:var(--good)}
ul{list-style:none;margin:0;padding:0}
.tally{display:flex;flex-wrap:wrap;gap:8px}
.tally li{border-radius:99px;padding:1px 12px;background:var(--card);border:1px solid var(--line)}
.problems{display:grid;gap:8px;grid-template-columns:repeat(auto-fill,minmax(min(100%,380px),1fr))}
.problems li{background:var(--card);color:var(--ink);border:1px solid var(--line);border-left:5px solid var(--warn);\
border-radius:8px;padding:9px 14px}
.problems .x{border-left-color:var(--bad)}
code{font:13px ui-monospace,monospace;color:var(--ink);background:var(--code);border-radius:4px;padding:1px 5px}
.facts{display:flex;flex-wrap:wrap;gap:2px 22px;margin:0 0 10px;font-size:13px;color:var(--soft)}
table{width:100%;border-collapse:collapse;background:var(--card);border:1px solid var(--line);\
font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 10px;border-top:1px solid var(--line);font-weight:400}
thead th{border:0;color:var(--soft);font-size:12.5px;white-space:nowrap}
tbody a{font-weight:600;text-decoration:none}
tbody a:hover{text-decoration:underline}
th i{font-style:normal;display:inline-block;width:20px}
th small{margin-left:20px}
.d th,.d td{background:var(--badbg)}
svg{vertical-align:middle}
.l{stroke:var(--line)}
svg .r{fill:var(--bar)}svg .b{fill:var(--warn)}svg .f{fill:var(--bad)}svg .n{fill:var(--soft)}
footer{font-size:12.5px;padding-top:20px;padding-bottom:30px;color:var(--soft)}
@media(min-width:901px){
.sites{table-layout:fixed}
.sites th:nth-child(1){width:15%}.sites th:nth-child(2){width:11%}.sites th:nth-child(3){width:21%}
.sites th:nth-child(4){width:12%}.sites th:nth-child(5){width:144px}.sites th:nth-child(6){width:8%}
.recent td:nth-child(1),.recent td:nth-child(5){white-space:nowrap}
.recent td:nth-child(4){width:44%}
}
@media(max-width:900px){
header,main,footer{padding-left:12px;padding-right:12px}
header p{margin:0}
thead{position:absolute;clip-path:inset(50%);height:1px;overflow:hidden}
table,tbody{display:block;border:0;background:none}
tr{display:block;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 12px;\
margin-bottom:8px}
.d{background:var(--badbg)}
th,td{display:block;border:0;padding:2px 0}
td{padding-left:104px;position:relative}
td:before{content:attr(data-l);position:absolute;left:0;color:var(--soft);font-size:12.5px;line-height:1.75}
.e{display:none}
td small,th small{display:inline;margin-left:8px}
}"""


def sheet() -> str:
    """Return the style sheet on one line; no character of it has a meaning in HTML."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in colours.items()) for colours in (LIGHT, DARK))
    schemes = f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return schemes + _RULES.replace("\n", "")
