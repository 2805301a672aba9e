"""The one sheet of style: its names are private, its colours are the front end's where that has some.

Front ends differ in how they say that they are dark; where none does, text inherits its colour, and the colours of
the light theme hold. All text has a contrast of 4.5 to 1 or more on its theme's background.
"""

from __future__ import annotations

_DARK = ",".join(
    f"{where} .nba"
    for where in (
        'html[theme="dark"]',
        'html[data-theme="dark"]',
        'body[data-jp-theme-light="false"]',
        "body.vscode-dark",
        "body.vscode-high-contrast",
    )
)

_RULES = f"""
.nba{{
--nba-text:var(--jp-content-font-color1,var(--vscode-editor-foreground,inherit));
--nba-quiet:#595f66;--nba-accent:#0b5cad;--nba-good:#1a7333;--nba-warn:#8a5300;--nba-bad:#b3261e;
--nba-line:rgba(128,128,128,.32);--nba-track:rgba(128,128,128,.22);
--nba-shade:rgba(128,128,128,.08);--nba-mark:rgba(11,92,173,.10);
--nba-sans:var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif));
--nba-mono:var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
--nba-size:var(--jp-ui-font-size1,13px);
color:var(--nba-text);font-family:var(--nba-sans);font-size:var(--nba-size);line-height:1.5;
font-variant-numeric:tabular-nums}}
{_DARK}{{
--nba-quiet:#b3b9c0;--nba-accent:#82b7ff;--nba-good:#6fd08c;--nba-warn:#f0b35a;--nba-bad:#ff8f86;
--nba-mark:rgba(130,183,255,.14)}}
.nba-quiet{{color:var(--nba-quiet)}}
.nba-accent{{color:var(--nba-accent)}}
.nba-good{{color:var(--nba-good)}}
.nba-warn{{color:var(--nba-warn)}}
.nba-bad{{color:var(--nba-bad)}}
.nba code,.nba pre{{font-family:var(--nba-mono);font-size:.95em;background:none;color:inherit;padding:0}}
.nba pre{{margin:4px 0;padding:8px;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:4px;
background:var(--nba-shade)}}
.nba h4{{margin:0 0 4px;font-size:1.08em;font-weight:600;color:inherit}}
.nba-badge{{display:inline-block;padding:0 8px;border:1px solid currentColor;border-radius:10px;font-size:.92em;
line-height:1.5;white-space:nowrap}}
.nba table.nba-table{{border-collapse:collapse;border:0;margin:4px 0;font:inherit;color:inherit;
font-variant-numeric:tabular-nums}}
.nba table.nba-table tr,.nba table.nba-table tr:nth-child(even){{background:none}}
.nba table.nba-table th,.nba table.nba-table td{{border:0;border-bottom:1px solid var(--nba-line);background:none;
padding:3px 12px 3px 0;text-align:left;vertical-align:top;font-size:inherit;color:inherit}}
.nba table.nba-table th{{font-weight:600;color:var(--nba-quiet)}}
.nba table.nba-table td.nba-number{{text-align:right}}
.nba table.nba-table tr.nba-marked td{{background:var(--nba-mark)}}
"""

STYLE = f"<style>{''.join(_RULES.splitlines())}</style>"
"""To stand before the HTML that uses it; as often as one likes."""
