"""How it looks: the theme, the style sheet, what stands in the page's head. No host but this one is named."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).with_name("assets")
VERMILION = gr.themes.Color(
    name="vermilion", c50="#fdf3ef", c100="#fbe3da", c200="#f6c4b3", c300="#f09f85", c400="#f07a55", c500="#dd5630",
    c600="#c2431f", c700="#a1361a", c800="#812d18", c900="#652414", c950="#36110a",
)  # fmt: skip
THEME = gr.themes.Base(
    primary_hue=VERMILION,
    neutral_hue="stone",
    radius_size="md",
    font=[gr.themes.Font("IBM Plex Sans"), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[gr.themes.Font("IBM Plex Mono"), "ui-monospace", "monospace"],
).set(
    body_background_fill="#faf7f2",
    body_background_fill_dark="#161412",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="#1f1c19",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_shadow="none",
    block_padding="0px",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_info_text_color="#6b655d",
    block_info_text_color_dark="#a39b91",
    block_title_text_color="#6b655d",
    block_title_text_color_dark="#a8a096",
    input_background_fill="#ffffff",
    input_background_fill_dark="#26221f",
    input_border_width="1px",
    input_border_color="#ddd5c9",
    input_border_color_dark="#3d3731",
    panel_background_fill="transparent",
    panel_border_width="0px",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_400",
    button_primary_background_fill_hover_dark="*primary_300",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#1d0f0a",
    button_secondary_background_fill="#f1ebe2",
    button_secondary_background_fill_hover="#e8dfd2",
    button_secondary_background_fill_dark="#302b26",
    button_secondary_background_fill_hover_dark="#3d3731",
)
# The sheet is linked, not handed over: Gradio would rewrite its selectors. The script runs before the first paint.
HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/studio/assets/studio.css">
<link rel="stylesheet" href="/studio/assets/mix.css">
<link rel="stylesheet" href="/studio/assets/runs.css">
<link rel="stylesheet" href="/studio/assets/doctor.css">
<link rel="stylesheet" href="/studio/assets/bases.css">
<script>
addEventListener("DOMContentLoaded", () => {
  const chosen = localStorage.getItem("difflora.theme");
  if (!chosen) return;
  const put = () => document.body.classList.toggle("dark", chosen === "dark");
  put();
  new MutationObserver((_, watching) => { put(); watching.disconnect(); }).observe(document.body, { childList: true });
});
</script>
"""
LOOK = {"theme": THEME, "head": HEAD, "favicon_path": str(ASSETS / "icon.png")}
