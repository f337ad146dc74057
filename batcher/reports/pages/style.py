"""The style of every page: light and dark, wide and narrow, on the screen and on paper.

Invariant: the colours of text have a contrast of at least 4.5 on their ground.
"""

from __future__ import annotations

_DARK = """
--bg: #0d1117; --surface: #161b22; --border: #3d444d; --text: #e6edf3; --muted: #9198a1; --accent: #6aa9f0;
--ok: #3fb950; --invalid: #d29922; --error: #f85149;"""
_LIGHT = """
--bg: #ffffff; --surface: #f6f8fa; --border: #d1d9e0; --text: #1f2328; --muted: #59636e; --accent: #0969da;
--ok: #1a7f37; --invalid: #9a6700; --error: #cf222e; --batcher-accent: var(--accent);"""

_PLAIN = """
:root { color-scheme: light dark;LIGHT }
@media (prefers-color-scheme: dark) { :root {DARK } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; max-width: 960px;
  margin: 0 auto; padding: 20px 20px 40px; background: var(--bg); color: var(--text); overflow-wrap: break-word; }
h1 { font-size: 1.6em; line-height: 1.25; margin: 0 0 0.2em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; line-height: 1.3; margin: 0 0 0.7em; }
main > h2 { margin-top: 1.8em; }
h3 { font-size: 1em; margin: 1.6em 0 0.5em; }
p { margin: 0.5em 0; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -999em; }
.skip:focus { left: 12px; top: 8px; background: var(--bg); padding: 4px 10px; }
.muted { color: var(--muted); }
.sub { color: var(--muted); margin: 0; overflow-wrap: anywhere; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; padding: 0;
  font-size: 0.93em; }
section { border-top: 1px solid var(--border); margin-top: 32px; padding-top: 22px; }
.headline { background: var(--surface); border: 1px solid var(--border); border-radius: 10px; padding: 16px 20px;
  margin: 16px 0 0; }
.headline .number { font-size: 2.3em; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums;
  margin: 0; overflow-wrap: anywhere; }
.headline p { margin: 0.25em 0 0; }
.states { display: flex; height: 12px; border-radius: 6px; overflow: hidden; background: var(--border);
  margin: 12px 0 10px; }
.states span { display: block; height: 100%; min-width: 2px; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 0; padding: 0; list-style: none; }
.tiles li { flex: 1 1 110px; border: 1px solid var(--border); border-radius: 8px; padding: 8px 12px;
  background: var(--bg); }
.tiles b { display: block; font-size: 1.25em; font-variant-numeric: tabular-nums; }
.tiles i { font-style: normal; color: var(--muted); font-size: 0.9em; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.ok { background: var(--ok); } .invalid { background: var(--invalid); } .error { background: var(--error); }
.left { background: var(--border); }
dl { display: grid; grid-template-columns: minmax(7em, max-content) 1fr; gap: 3px 18px; margin: 0; }
dt { color: var(--muted); }
dl + div { margin-top: 18px; }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.headline dl { margin-top: 10px; }
pre, code { font: 0.92em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--surface); border: 1px solid var(--border); border-radius: 8px; padding: 10px 12px;
  margin: 0.4em 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0 0 6px; }
th, td { padding: 5px 14px 5px 0; vertical-align: top; text-align: left; }
th { font-weight: 600; }
.grid { width: 100%; }
.grid th, .grid td { border-bottom: 1px solid var(--border); }
.grid thead th { color: var(--muted); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
.grid tbody th { font-weight: 500; }
.grid .n { text-align: right; white-space: nowrap; }
.grid thead .n { white-space: normal; }
.grid tbody th, .grid td { overflow-wrap: anywhere; min-width: 3.2em; }
.grid .n, .grid .short { overflow-wrap: normal; }
.grid .short { white-space: nowrap; }
.grid .wide { min-width: 15em; }
.grid .name, .grid .said { min-width: 12.5em; }
.grid button { all: unset; cursor: pointer; color: inherit; font: inherit; }
.grid button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
.grid button::after { content: "\\2195"; opacity: 0.55; margin-left: 4px; font-weight: 400; }
.grid [aria-sort="ascending"] button::after { content: "\\2191"; opacity: 1; }
.grid [aria-sort="descending"] button::after { content: "\\2193"; opacity: 1; }
.facts th, .facts th:first-child { white-space: nowrap; min-width: 0; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.6em 0; }
.filter { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; margin: 0.6em 0; font-size: 0.93em; }
.filter input { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--muted);
  border-radius: 6px; padding: 3px 8px; margin-left: 6px; width: 15em; max-width: 60vw; }
.filter output { color: var(--muted); }
summary { cursor: pointer; margin: 0.6em 0; color: var(--accent); }
.cells { margin: 0; display: block; }
.cells div { margin: 0 0 2px; }
.cells i { font-style: normal; color: var(--muted); font-size: 0.9em; margin-inline-end: 5px; }
.hints { margin: 0; padding: 0; list-style: none; }
.hints li { border: 1px solid var(--border); border-left: 4px solid var(--invalid); border-radius: 6px;
  padding: 9px 14px; margin: 0 0 10px; background: var(--surface); }
.hints p { margin: 0; }
.hints p + p { margin-top: 3px; color: var(--muted); }
figure { margin: 0.8em 0; }
figcaption { color: var(--text); margin: 0 0 3px; font-size: 0.93em; }
figcaption span { color: var(--muted); }
.curve { display: block; border-bottom: 1px solid var(--border); background: var(--surface); }
.axis { display: flex; justify-content: space-between; color: var(--muted); font-size: 0.85em; }
.endpoint { margin: 0 0 14px; }
footer { margin-top: 40px; padding-top: 14px; border-top: 1px solid var(--border); color: var(--muted);
  font-size: 0.9em; }
@media (max-width: 600px) {
  body { padding: 14px 14px 30px; }
  h1 { font-size: 1.4em; }
  .headline { padding: 13px 15px; }
  .headline .number { font-size: 1.9em; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
  th, td { padding-right: 10px; }
  .grid thead th { font-size: 0.86em; }
  .grid button::after { content: none; }
  .grid .wide { min-width: 8.5em; }
  .grid .said { min-width: 5em; }
  .grid .name { min-width: 9em; }
  .tiles li { flex-basis: 40%; }
}
@media print {
  :root { color-scheme: light;LIGHT }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav, .skip, .filter, .grid button::after { display: none; }
  section { break-inside: auto; margin-top: 18px; padding-top: 12px; }
  h2, h3, caption, figcaption { break-after: avoid; }
  tr, figure, .headline, .hints li { break-inside: avoid; }
  .scroll { overflow: visible; }
  .grid .wide, .grid .name, .grid .said, .grid .short, .grid .n { min-width: 0; white-space: normal; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .states span, .dot, .headline, .heat td, pre, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

STYLE = _PLAIN.replace("LIGHT", _LIGHT).replace("DARK", _DARK)
