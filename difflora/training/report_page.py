"""The page a checkup is shown on, with places for its parts; the studio's paper and ink."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>difflora check</title>
<style>
:root { --paper: #faf7f2; --leaf: #fff; --ink: #1f1c19; --soft: #6b655d; --line: #e4dccf; --well: #f1ebe2;
  --accent: #c2431f; --bad: #a8261a; --good: #35733d; --shade: 0 1px 2px rgb(60 40 20 / 8%), 0 6px 20px rgb(60 40 20 /
  6%); }
@media (prefers-color-scheme: dark) { :root { --paper: #161412; --leaf: #1f1c19; --ink: #f1ece4; --soft: #a8a096;
  --line: #37312b; --well: #2a2622; --accent: #f07a55; --bad: #ff8d7a; --good: #8ecb8f; --shade: none; } }
* { box-sizing: border-box; margin: 0 }
body { background: var(--paper); color: var(--ink); font: 15px/1.45 "IBM Plex Sans", system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 24px 80px; }
h1, h2, h3, .number b { font-family: "Iowan Old Style", Palatino, Charter, Georgia, serif; letter-spacing: -.01em;
  overflow-wrap: anywhere }
h1 { font-size: 32px; line-height: 1.15 } h2 { font-size: 20px; margin: 40px 0 12px }
h3 { font-size: 15px; font-weight: 600; line-height: 1.3 }
.soft, small { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums }
header { display: flex; flex-wrap: wrap; gap: 8px 40px; align-items: end; justify-content: space-between }
header p { margin-top: 4px }
.numbers { display: flex; gap: 30px } .number { display: flex; align-items: baseline; gap: 7px; color: var(--soft) }
.number b { font-size: 32px; line-height: 1.15; color: var(--ink) } .number.exclude b { color: var(--bad) }
  .number.keep b { color: var(--good) }
.summary > p { margin-top: 8px }
.notes { list-style: none; padding: 0; margin-top: 22px; display: grid; gap: 8px }
.notes:empty { display: none }
.notes li { border-left: 3px solid var(--accent); background: var(--well); border-radius: 0 8px 8px 0; padding: 8px
  14px; overflow-wrap: anywhere }
.groups { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)) }
.group { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 12px; background:
  var(--leaf); border: 1px solid var(--line); border-radius: 14px; padding: 14px; box-shadow: var(--shade) }
.group img, .group .none { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; background: var(--well);
  border-radius: 8px; display: block }
.group .best img { outline: 2px solid var(--good); outline-offset: 2px }
figcaption { margin-top: 7px; font-size: 12.5px; line-height: 1.3; overflow-wrap: anywhere } figcaption b { display:
  block; font-weight: 600 }
.filters { display: flex; flex-wrap: wrap; gap: 8px; position: sticky; top: 0; z-index: 2; background: var(--paper);
  padding: 10px 0; margin-bottom: 10px }
.filters label { cursor: pointer } .filters input { position: absolute; opacity: 0 }
.filters span { display: block; border: 1px solid var(--line); border-radius: 99px; padding: 5px 13px; font-size:
  14px; background: var(--leaf) }
.filters i { font-style: normal; color: var(--soft); font-variant-numeric: tabular-nums; margin-left: 3px }
.filters input:checked + span { background: var(--ink); color: var(--paper); border-color: var(--ink) }
.filters input:checked + span i { color: inherit; opacity: .7 } .filters input:focus-visible + span { outline: 2px
  solid var(--accent); outline-offset: 2px }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 216px), 1fr)) }
.card { background: var(--leaf); border: 1px solid var(--line); border-radius: 14px; overflow: hidden; box-shadow:
  var(--shade); display: flex; flex-direction: column }
.shot { position: relative; aspect-ratio: 1; background: var(--well) } .shot img { width: 100%; height: 100%;
  object-fit: contain; display: block }
.none { display: grid; place-items: center; height: 100%; color: var(--soft); font-size: 13px }
.badge { position: absolute; left: 10px; top: 10px; border-radius: 99px; padding: 2px 10px; font-size: 12.5px;
  font-weight: 600; background: var(--leaf); border: 1px solid var(--line) }
.badge.exclude { color: #fff; background: #a8261a; border-color: transparent } .badge.look { color: var(--accent) }
  .badge.keep { display: none }
.words { padding: 11px 13px 13px; display: flex; flex-direction: column; gap: 4px; flex: 1 }
.words ul { list-style: none; padding: 0; font-size: 13.5px; line-height: 1.4; display: grid; gap: 5px; margin-top:
  3px; overflow-wrap: anywhere }
.words li b { color: var(--accent); font-weight: 600 } .exclude .words li:first-child b { color: var(--bad) }
.caption { margin-top: auto; padding-top: 7px; color: var(--soft); font-size: 13px; font-style: italic; overflow-wrap:
  anywhere; max-height: 7.5em; overflow-y: auto }
[hidden] { display: none !important }
@media (max-width: 560px) {
  main { padding: 22px 14px 60px } h1 { font-size: 26px } .numbers { gap: 20px } .number b { font-size: 26px }
  .filters { flex-wrap: nowrap; overflow-x: auto; margin: 0 -14px 8px; padding: 10px 14px; white-space: nowrap }
  .card { flex-direction: row } .shot { flex: 0 0 112px; aspect-ratio: auto; min-height: 112px }
  .shot img { position: absolute; inset: 0 } .badge { left: 6px; top: 6px; padding: 1px 8px; font-size: 11.5px }
  .words { min-width: 0 }
}
@media print { .filters { display: none } .card, .group { break-inside: avoid } }
<!--rules-->
</style>
</head>
<body>
<main>
<header><div><p class="soft">difflora check</p><h1><!--title--></h1></div><div
  class="summary"><!--summary--></div></header>
<ul class="notes"><!--notes--></ul>
<section <!--no_groups-->><h2>Pictures that show the same</h2><div class="groups"><!--groups--></div></section>
<section><h2>Every picture, the worst first</h2>
<div class="filters"><!--filters--></div>
<div class="cards">
<!--cards--></div></section>
</main>
</body>
</html>
"""
