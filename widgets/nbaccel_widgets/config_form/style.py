"""The form's own rules of style, over the tokens of `nbaccel.look`.

ipywidgets' controls take their colours from variables; these are set here from the tokens, so that the form looks the
same in front ends that leave them alone. A row is a grid: its control's own label and field are cells of it.
"""

from __future__ import annotations

from nbaccel.look.sheet import STYLE as SHEET

_COLUMNS = "15.5em 12em 3.4em minmax(0,1fr)"

_RULES = f"""
.nba.nba-form{{
--nba-ground:var(--jp-layout-color1,var(--vscode-editor-background,transparent));
--nba-field-line:#8a8f96;--nba-small:.92em;
--jp-widgets-color:var(--nba-text);--jp-widgets-label-color:var(--nba-text);--jp-widgets-inline-height:26px;
--jp-widgets-input-color:var(--nba-text);--jp-widgets-input-background-color:var(--nba-ground);
--jp-widgets-input-border-color:var(--nba-field-line);--jp-widgets-input-focus-border-color:var(--nba-accent);
--jp-widgets-font-size:var(--nba-size);
container-type:inline-size;background:var(--nba-ground);border:1px solid var(--nba-line);border-radius:6px;
padding:12px;margin:4px 0;max-width:1200px;gap:8px;overflow:visible}}
.nba-form .widget-box{{overflow:visible}}
.nba-form .nba-stack{{display:flex;flex-direction:column;gap:8px}}
.nba-form .widget-html,.nba-form .widget-html-content{{line-height:1.45;min-height:0;height:auto;font-size:inherit}}
.nba-form .widget-label{{height:auto;line-height:1.4;color:var(--nba-text)}}
.nba-form :is(input,select,textarea,button):focus-visible{{outline:2px solid var(--nba-accent);outline-offset:1px}}
.nba-form select{{background-image:linear-gradient(45deg,transparent 50%,currentColor 50%),
linear-gradient(135deg,currentColor 50%,transparent 50%);background-position:calc(100% - 13px) 50%,
calc(100% - 8px) 50%;background-size:5px 5px;background-repeat:no-repeat}}
.nba-form select option{{color:var(--nba-text);background:var(--nba-ground)}}
.nba-form input::placeholder,.nba-form textarea::placeholder{{color:var(--nba-quiet);opacity:1}}
.nba-form .nba-bar{{display:flex;flex-wrap:wrap;gap:6px 14px;align-items:center}}
.nba-form .nba-bar .widget-inline-hbox{{width:auto;margin:0;gap:6px}}
.nba-form .nba-bar .widget-label{{width:auto;min-width:0;flex:none}}
.nba-form .nba-bar .widget-checkbox{{flex:none}}
.nba-form .nba-bar .widget-checkbox .widget-label-basic{{display:flex;align-items:center;gap:6px;width:auto}}
.nba-form .nba-bar button{{margin:0;width:auto;padding:0 12px;height:28px;line-height:26px;border-radius:4px}}
.nba-form .nba-short input{{width:6em;flex:none}}
.nba-form .nba-grow{{flex:1 1 12em}}
.nba-form .nba-outlook{{border-left:3px solid var(--nba-line);padding-left:10px;min-height:4.5em}}
.nba-form .nba-rows{{height:432px;overflow-y:auto;overflow-x:hidden;display:block;position:relative;
padding:0 8px 0 0}}
.nba-form .nba-results{{height:476px;border-top:1px solid var(--nba-line);border-bottom:1px solid var(--nba-line)}}
.nba-form .nba-row,.nba-form .nba-heads{{display:grid;grid-template-columns:{_COLUMNS};column-gap:12px;
grid-template-areas:"label control reset layers" "help help help layers";grid-template-rows:auto 1fr}}
.nba-form .nba-row{{border-bottom:1px solid var(--nba-line);border-left:3px solid transparent;padding:7px 0 6px 8px;
row-gap:2px;min-height:64px;margin:0}}
.nba-form .nba-row.nba-changed{{border-left-color:var(--nba-accent)}}
.nba-form .nba-row>.widget-inline-hbox:not(.widget-html),.nba-form .nba-row>.widget-html,
.nba-form .nba-row>.widget-html>.widget-html-content{{display:contents}}
.nba-form .nba-row .widget-label{{grid-area:label;width:auto;max-width:none;min-width:0;text-align:left;margin:0;
padding-top:3px;white-space:normal;overflow-wrap:anywhere;font-family:var(--nba-mono);font-size:var(--nba-small)}}
.nba-form .nba-row.nba-changed .widget-label{{color:var(--nba-accent);font-weight:600}}
.nba-form .nba-row :is(input,select,textarea){{scroll-margin:48px 0 60px;
grid-area:control;width:100%;min-width:0;margin:0;align-self:start;
font-family:var(--nba-mono);font-size:var(--nba-small)}}
.nba-form .nba-row>button{{grid-area:reset;width:auto;margin:0;padding:0;height:26px;line-height:26px;
background:none;color:var(--nba-accent);box-shadow:none;font-size:var(--nba-small);text-align:left;visibility:hidden}}
.nba-form .nba-row.nba-own>button{{visibility:visible}}
.nba-form .nba-row>button:hover{{text-decoration:underline}}
.nba-form .nba-help{{grid-area:help;font-size:var(--nba-small);line-height:1.35;min-height:2.7em}}
.nba-form .nba-chain{{grid-area:layers;min-width:0}}
.nba-form .nba-top{{position:sticky;top:0;z-index:2;background:var(--nba-ground);margin:0}}
.nba-form .nba-heads{{padding:2px 0 2px 11px;
border-bottom:1px solid var(--nba-line);color:var(--nba-quiet);font-weight:600;
grid-template-areas:"label control reset layers"}}
.nba-form .nba-heads span{{font-size:11.5px;padding:3px 0}}
.nba-form .nba-heads table{{grid-area:layers}}
.nba-form table.nba-layers{{table-layout:fixed;width:100%;border-collapse:collapse;border:0;margin:0;font:inherit;
color:inherit}}
.nba-form table.nba-layers :is(tr,th,td){{background:none;border:0}}
.nba-form table.nba-layers :is(th,td){{padding:3px 4px;text-align:left;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap;vertical-align:top;max-width:none}}
.nba-form table.nba-layers th{{font-weight:600;font-size:11.5px;letter-spacing:-.01em;text-overflow:clip;
color:var(--nba-quiet)}}
.nba-form table.nba-layers td{{font-family:var(--nba-mono);font-size:var(--nba-small)}}
.nba-form .nba-chain thead{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap}}
.nba-form td.nba-winning{{background:var(--nba-mark)!important;border-radius:3px}}
.nba-form .nba-wins{{font-weight:700}}
.nba-form .nba-loses,.nba-form .nba-loses s{{color:var(--nba-quiet)}}
.nba-form .nba-none{{color:var(--nba-quiet)}}
.nba-form .nba-places{{font-size:var(--nba-small);padding:1px 4px 0;line-height:1.4;overflow-wrap:anywhere}}
.nba-form .nba-places>span{{display:inline-block;margin-right:14px}}
.nba-form .nba-places code{{font-size:1em}}
.nba-form .nba-heading{{font-weight:600;padding:12px 0 4px 11px;font-family:var(--nba-mono);
border-bottom:1px solid var(--nba-line)}}
.nba-form .nba-aside{{padding:10px 0 10px 11px}}
.nba-form .nba-pre{{height:124px;overflow:auto;margin:0;padding:8px;background:var(--nba-shade);border-radius:4px;
font-family:var(--nba-mono);font-size:var(--nba-small);line-height:1.4;white-space:pre;tab-size:2}}
.nba-form .nba-copy .widget-inline-hbox{{width:auto;margin:0}}
.nba-form .nba-copy .nba-bar{{margin-bottom:6px}}
.nba-form .nba-copy .widget-dropdown{{width:26em}}
.nba-form .nba-copy .widget-label{{width:5em;text-align:left}}
.nba-form .nba-copy{{height:144px}}
.nba-form .nba-copy textarea{{height:96px;font-family:var(--nba-mono);font-size:var(--nba-small)}}
.nba-form .widget-tab{{margin:0}}
.nba-form .widget-tab>.widget-tab-contents{{background:none;padding:8px;overflow:visible;
border:1px solid var(--nba-line)}}
.nba-form .widget-tab>:is(.p-TabBar,.lm-TabBar) :is(.p-TabBar-tab,.lm-TabBar-tab){{flex:0 1 auto;min-width:5em;
color:var(--nba-text);background:none;border-color:var(--nba-line);padding:0 10px;line-height:26px;
font-family:var(--nba-sans)}}
.nba-form .widget-tab>:is(.p-TabBar,.lm-TabBar) :is(.p-mod-current,.lm-mod-current){{font-weight:600;
background:var(--nba-ground)}}
.nba-form :is(.p-TabBar-tab,.lm-TabBar-tab):focus-visible{{outline:2px solid var(--nba-accent);outline-offset:-2px}}
@container (max-width:980px){{
.nba-form .nba-row{{grid-template-columns:15.5em 11.5em 3.4em minmax(0,1fr);
grid-template-areas:"label control reset help" "layers layers layers layers"}}
.nba-form .nba-row .nba-chain{{min-height:45px}}
.nba-form .nba-heads{{grid-template-columns:1fr;grid-template-areas:"layers"}}
.nba-form .nba-heads span{{display:none}}
}}
@container (max-width:680px){{
.nba-form .nba-row{{grid-template-columns:minmax(8em,1fr) minmax(7em,1fr) 3.4em;
grid-template-areas:"label control reset" "help help help" "layers layers layers"}}
.nba-form .nba-row .nba-help{{min-height:1.35em}}
.nba-form .widget-tab>:is(.p-TabBar,.lm-TabBar){{height:auto;max-height:none}}
.nba-form .widget-tab>:is(.p-TabBar,.lm-TabBar)>ul{{flex-wrap:wrap}}
.nba-form .widget-tab>:is(.p-TabBar,.lm-TabBar) :is(.p-TabBar-tab,.lm-TabBar-tab){{max-width:none;min-width:0}}
}}
"""

STYLE = f"{SHEET}<style>{''.join(_RULES.splitlines())}</style>"
"""To stand in the form once."""
