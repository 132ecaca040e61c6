"""The page's style sheet. Colours are variables, so that text, axes and marks follow light, dark and paper."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1b1d; --muted: #5c5c63; --rule: #d4d4d8; --wash: #f5f5f3; --link: #00558a;
  --good: #006b4e; --bad: #a83a00; --shade: #00000026; --marked: #ffedb8; --gone: #ffe3d9; --came: #d8f1e6;
  --blue: #0072b2; --vermillion: #d55e00; --green: #008a64; --purple: #b0578f; --sky: #2c87bd; --orange: #a87400;
  --blue-text: #00609a; --vermillion-text: #ab4a00; --green-text: #00704f; --purple-text: #98427a;
  --sky-text: #1d6c9c; --orange-text: #855c00;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, "Noto Serif", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --ink: #e6e6e3; --muted: #a3a3aa; --rule: #3b3c42; --wash: #1f2024; --link: #7fc1ee;
    --good: #4fc79c; --bad: #f59a5c; --shade: #ffffff2e; --marked: #4d3d00; --gone: #4f2817; --came: #123f2f;
    --blue: #4ba3e3; --vermillion: #ee7a2b; --green: #1fb588; --purple: #d58fb8; --sky: #7fc4ee; --orange: #e0a526;
    --blue-text: #6db6ea; --vermillion-text: #f29050; --green-text: #3cc79b; --purple-text: #dda3c5;
    --sky-text: #93cef1; --orange-text: #e6b245;
  }
}
* { box-sizing: border-box; }
html { font-size: 106.25%; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font-family: var(--serif); line-height: 1.55; }
header, main, footer { max-width: 64rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
p, ul.prose, dl.facts { max-width: 68ch; }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.2rem; font-weight: 600; margin: 0; }
h2 { font-size: 1.4rem; font-weight: 600; margin: 3.25rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem; }
h4 { font: 600 .85rem/1.4 var(--sans); margin: 0 0 .35rem; }
p { margin: .6rem 0; }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; }
.skip { position: absolute; left: .75rem; top: -6rem; padding: .5rem .9rem; background: var(--paper);
  border: 1px solid var(--link); font-family: var(--sans); z-index: 2; }
.skip:focus { top: .75rem; }
main:focus { outline: none; }
.made, .aside, footer { color: var(--muted); font-family: var(--sans); font-size: .82rem; }
#verdict h2 { border: 0; margin: 0; padding: 0; font: 600 .82rem/1.4 var(--sans); color: var(--muted); }
#verdict { margin-top: 2rem; }
.headline { font-size: clamp(1.65rem, 1.2rem + 2vw, 2.4rem); line-height: 1.2; margin: .25rem 0 1rem; max-width: 26ch;
  text-wrap: balance; }
nav { margin-top: 2rem; font-family: var(--sans); font-size: .85rem; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; }
nav a { display: inline-block; padding: .3rem 0; }

.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.75rem 2.5rem;
  align-items: start; margin: 1.25rem 0; }
figure { margin: 0; min-width: 0; max-width: 30rem; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); fill: currentColor; overflow: visible; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: var(--sans); font-variant-numeric: tabular-nums; }
figcaption { font-family: var(--sans); font-size: .82rem; line-height: 1.5; margin-top: .6rem; color: var(--muted); }
figcaption b { color: var(--ink); }
details { font-family: var(--sans); font-size: .82rem; margin-top: .5rem; min-width: 0; }
summary { cursor: pointer; color: var(--link); padding: .3rem 0; }

.scroll { overflow-x: auto; margin: .9rem 0; max-width: 100%; width: fit-content; background:
  linear-gradient(to left, var(--paper) 40%, transparent) calc(100% + 2px) 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / .7rem 100% no-repeat scroll; }
table { border-collapse: collapse; font: .8rem/1.4 var(--sans); font-variant-numeric: tabular-nums lining-nums;
  border-bottom: 1px solid var(--ink); }
caption { text-align: left; padding: 0 0 .5rem; color: var(--muted); font-size: .82rem; caption-side: top; }
caption span { display: block; max-width: min(68ch, 86vw); position: sticky; left: 0; }
caption b { color: var(--ink); }
th, td { text-align: left; vertical-align: top; padding: .34rem .65rem; font-weight: 400; }
td { white-space: nowrap; }
thead th { border-top: 1px solid var(--ink); border-bottom: 1px solid var(--ink); vertical-align: bottom;
  font-weight: 600; white-space: normal; }
tbody th[scope=row] { min-width: 8rem; max-width: 17rem; position: sticky; left: 0; background: var(--paper); }
tr > :first-child { padding-left: 0; }
tbody th[scope=rowgroup] { font-weight: 600; padding-top: .9rem; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.num { text-align: right; }
.num span { color: var(--muted); display: block; font-size: .92em; }
td.prose { min-width: 11rem; max-width: 24rem; white-space: normal; overflow-wrap: break-word; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
table.heat { border-bottom: 0; }
table.heat td { text-align: center; min-width: 3.2rem; border: 2px solid var(--paper); padding: .4rem; }
table.heat td.none { color: var(--muted); }
table.heat thead th { border: 0; text-align: center; max-width: 8rem; }
table.heat thead th:first-child { text-align: left; }
table.heat tbody tr > th { padding-right: .75rem; border: 0; vertical-align: middle; }

.sample { margin: 1.1rem 0 1.9rem; }
.prompt { margin: 0 0 .75rem; padding-left: .9rem; border-left: 3px solid var(--rule); white-space: pre-wrap;
  overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .9rem 1.5rem;
  margin: 0; }
.answers div { min-width: 0; border-top: 1px solid var(--rule); padding-top: .4rem; }
dt { font: 600 .8rem/1.4 var(--sans); }
dt span { font-weight: 400; color: var(--muted); display: block; font-variant-numeric: tabular-nums; }
.answers dd { margin: .35rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .95rem;
  line-height: 1.45; }
/* not by colour alone: a mark has a line below, what left is struck out, what came is underlined */
mark, del, ins { color: var(--ink); -webkit-box-decoration-break: clone; box-decoration-break: clone; }
mark { background: var(--marked); border-bottom: 2px solid var(--orange); }
del { background: var(--gone); text-decoration: line-through var(--bad); }
ins { background: var(--came); text-decoration: underline var(--good); text-underline-offset: .2em; }
details.texts { font-size: .9rem; border-top: 1px solid var(--rule); margin: 0; padding: .3rem 0; }
details.texts .prompt, details.texts dd { font: .95rem/1.5 var(--serif); }
.failed { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .9rem; margin: 1.1rem 0; }
.failed ul { margin: .3rem 0; padding-left: 1.1rem; overflow-wrap: anywhere; }
pre { font: .8rem/1.5 var(--mono); background: var(--wash); padding: .75rem .9rem; overflow-x: auto; margin: .9rem 0;
  max-width: 100%; }
dl.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.2rem; margin: .9rem 0;
  font-family: var(--sans); font-size: .85rem; }
dl.facts dt { font-size: inherit; line-height: inherit; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
footer { padding-top: 2.5rem; padding-bottom: 3rem; }
@media (max-width: 30rem) {
  header, main, footer { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.5rem; }
  h2 { margin-top: 2.5rem; }
  tbody th[scope=row] { min-width: 7rem; max-width: 9rem; }
}

@media print {
  @page { size: A4; margin: 16mm 15mm; }
  :root { color-scheme: light; }
  html { font-size: 10pt; }
  header, main, footer { max-width: none; padding-left: 0; padding-right: 0; }
  header { padding-top: 0; }
  nav, .skip, summary { display: none; }
  .plots { grid-template-columns: 1fr 1fr; gap: 6mm; }
  figure, figcaption, svg, tr, .answers div, .failed { break-inside: avoid; }
  h2, h3, h4, caption, .prompt { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; height: auto; }
  .scroll { overflow: visible; background: none; }
  table { font-size: 6.6pt; }
  th, td { padding: .2rem .35rem; }
  thead th, td.prose, tbody th[scope=row] { min-width: 0; position: static; }
  .plots table { font-size: 5.6pt; }
  td, td.prose { white-space: normal; overflow-wrap: anywhere; }
  .num span { white-space: normal; }
  th { overflow-wrap: anywhere; } .scroll { width: auto; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  table.heat td, .good, .bad, mark, del, ins { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
