"""The Studio page: cards, mixer, easel, strip, blind pick, export, history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gradio as gr

from difflora.config import DrawConfig
from difflora.errors import RequestError
from difflora.models.samplers import SAMPLERS

from . import blends, easel
from .calls import blend_functions, blend_words, mixer_functions
from .desk import Desk
from .form import Form, control
from .history import recipe_of, throw_away
from .mixing import mix_facts, mix_of, mix_value, way_of
from .show import answered, said, told, who, widget
from .words import text

BASIC = ("seed", "count", "size", "sampler")
MORE = ("negative", "steps", "guidance", "clip_skip", "batch")
OPENED_WITH = ("bases", "vae", "precision", "attention", "offload", "tiling")
# What the studio was opened with, or what another part of the page does.
ELSEWHERE = {
    "prompts": "the prompt box", "prompts_file": "the prompt box takes one prompt a line", "lora": "the mixer",
    "like": "Redraw, on every picture", "base": "the head of the page", "loras": "difflora ui --loras",
    "out": "difflora ui --out", "budget": "the mixer", "orthogonal": "the mixer", "switch": "the mixer",
} | {name: f"difflora ui --{name}" for name in OPENED_WITH}  # fmt: skip


def studio_page(desk: Desk) -> None:
    """Lay the page out and connect it."""
    with gr.Row(elem_classes="studio"):
        with gr.Column(elem_id="shelf", min_width=220, scale=0):
            widget("cards", "cards", file="styles")
        with gr.Column(elem_id="easel", min_width=320, scale=3):
            prompt, draw, another = prompt_box()
            stage = widget("stage", "stage", file="easel", functions=[cancel_of(desk)])
            history = widget("history", "history", file="easel", functions=[redraw_of(desk), delete_of(desk)])
        with gr.Column(elem_id="table", min_width=300, scale=0):
            mixer = widget(
                "mixer", "mixer", {"facts": mix_facts(desk)}, file="styles tuning together mixer conflict",
                functions=mixer_functions(desk),
            )  # fmt: skip
            live = gr.Button("live", elem_id="live", elem_classes="gone")
            changed = gr.Button("base", elem_id="base-changed", elem_classes="gone")
            with gr.Row(elem_classes="pair-of-buttons"):
                between = gr.Button(text("strip.button"), elem_id="strip-button", size="sm")
                pick = gr.Button(text("duel.button"), elem_id="duel-button", size="sm")
            strip = widget("strip", "strip", file="blend", functions=[cancel_of(desk)])
            duel = widget("duel", "duel", file="blend", functions=[cancel_of(desk)])
            form = settings(desk)
            with gr.Accordion(text("export.accordion"), open=False, elem_id="export-box"):
                functions = [cancel_of(desk), *blend_functions(desk)]
                export = widget("export", "export", blend_words(), file="blend prospects export", functions=functions)
    asked = [prompt, mixer, *form.inputs]
    connect_drawing(desk, form, asked, draw, another, live, prompt, stage)
    connect_blends(desk, form, asked, between, strip, pick, duel, export)
    connect_history(desk, form, history, prompt, mixer)
    connect_base(desk, form, changed)


def prompt_box() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """What to draw, and the two buttons that draw it."""
    with gr.Row(elem_classes="prompt-row", equal_height=True):
        prompt = gr.Textbox(
            label=text("prompt.label"), placeholder=text("prompt.placeholder"), info=text("prompt.info"), lines=2,
            max_lines=6, max_length=20_000, elem_id="prompt", scale=4,
        )  # fmt: skip
        with gr.Column(scale=0, min_width=120, elem_classes="prompt-buttons"):
            draw = gr.Button(text("draw"), variant="primary", elem_id="draw")
            another = gr.Button(text("another"), elem_id="another", size="sm")
    return prompt, draw, another


def settings(desk: Desk) -> Form:
    """Every field of DrawConfig that is not elsewhere on the page."""
    extra = {
        "size": {"choices": sizes(desk.model.side), "allow_custom_value": True},
        "sampler": {"choices": samplers(SAMPLERS)},
        "negative": {"lines": 1},
        "guidance": {"value": desk.model.recommended.guidance},
    }
    controls = {}
    with gr.Accordion(text("settings"), open=True, elem_id="settings"):
        with gr.Row(elem_classes="tight"):
            controls |= {name: control(DrawConfig, name, **extra.get(name, {})) for name in BASIC}
        with gr.Accordion(text("settings.more"), open=False, elem_id="settings-more"):
            controls |= {name: control(DrawConfig, name, **extra.get(name, {})) for name in MORE}
    return Form(DrawConfig, controls)


def sizes(side: int) -> list[tuple[str, str]]:
    """Sizes to choose from, in words and as they are asked for."""
    offered = [str(side), f"{side}x{side * 3 // 2}", f"{side * 3 // 2}x{side}"]
    return [(text("form.open"), ""), *[(size, size) for size in offered]]


def samplers(names: Iterable[str]) -> list[tuple[str, str]]:
    """Samplers to choose from."""
    return [(text("viewer.own"), ""), *[(name, name) for name in names]]


def chosen_of(offered: list[tuple[str, str]], chosen: str | None) -> dict:
    """A list with other choices, and what was chosen where it is one of them."""
    return gr.update(choices=offered, value=chosen if chosen in [value for _, value in offered] else "")


def connect_base(desk: Desk, form: Form, changed: gr.Button) -> None:
    """Another base draws other sizes, maybe with other samplers: what was chosen stays where it is one of them.

    How strictly it follows prompts is its own.
    """
    size, sampler, guidance = (form.controls[name] for name in ("size", "sampler", "guidance"))

    @told
    def on_base(chosen: str | None, sampled: str | None) -> tuple[dict, dict, float]:
        model = desk.model
        lists = chosen_of(sizes(model.side), chosen), chosen_of(samplers(model.samplers), sampled)
        return *lists, model.recommended.guidance

    shown = [size, sampler, guidance]
    changed.click(on_base, shown[:2], shown, show_progress="hidden", api_visibility="private")


def config_of(desk: Desk, form: Form, prompt: str, mix: object, values: tuple) -> DrawConfig:
    """The controls as a config of this studio."""
    prompts = tuple(line.strip() for line in (prompt or "").splitlines() if line.strip())
    if not prompts:
        raise RequestError("no prompt: say what to draw, such as: a red apple")
    return form.read(values, prompts=prompts, base=desk.config.base, **way_of(mix))


def connect_drawing(desk: Desk, form: Form, asked: list, draw, another, live, prompt, stage) -> None:
    """Draw, draw again with the next seeds, and draw drafts while a slider moves."""

    @said()
    def on_draw(request: gr.Request, prompt: str, mix: dict, *values: object) -> dict:
        config = config_of(desk, form, prompt, mix, values)
        return {"ticket": easel.draw(desk, who(desk, request), config, mix_of(mix)).id}

    @said(outputs=2)
    def on_another(request: gr.Request, prompt: str, mix: dict, *values: object) -> tuple[dict, int]:
        config = config_of(desk, form, prompt, mix, values)
        config = replace(config, seed=(config.seed + config.count) % 2**31)
        return {"ticket": easel.draw(desk, who(desk, request), config, mix_of(mix)).id}, config.seed

    @said()
    def on_live(request: gr.Request, prompt: str, mix: dict, *values: object) -> dict:
        if not (prompt or "").strip():
            return gr.skip()
        config = config_of(desk, form, prompt, mix, values)
        return {"ticket": easel.draft(desk, who(desk, request), config, mix_of(mix)).id}

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    draw.click(on_draw, asked, stage, **quick)
    live.click(on_live, asked, stage, **quick)
    prompt.submit(on_draw, asked, stage, **quick)
    another.click(on_another, asked, [stage, form.controls["seed"]], **quick)


def connect_blends(desk: Desk, form: Form, asked: list, between, strip, pick, duel, export) -> None:
    """The strip, the blind pick, the blend as one file."""

    @said()
    def on_strip(request: gr.Request, prompt: str, mix: dict, *values: object) -> dict:
        config = config_of(desk, form, prompt, mix, values)
        return {"ticket": easel.strip(desk, who(desk, request), config, mix_of(mix)).id}

    @said()
    def on_duel(request: gr.Request, prompt: str, mix: dict, *values: object) -> dict:
        config = config_of(desk, form, prompt, mix, values)
        ticket, state = easel.duel(desk, who(desk, request), config, mix_of(mix), None)
        return state | {"ticket": ticket.id}

    @said()
    def on_choice(request: gr.Request, event: gr.EventData, prompt: str, mix: dict, *values: object) -> dict:
        config = config_of(desk, form, prompt, mix, values)
        ticket, state = easel.duel(desk, who(desk, request), config, mix_of(mix), event._data)
        return state | {"ticket": ticket.id}

    @said()
    def on_save(request: gr.Request, event: gr.EventData, prompt: str, mix: dict, *values: object) -> dict:
        config = config_of(desk, form, (prompt or "").strip() or text("prompt.placeholder"), mix, values)
        name, settings = str(event._data.get("name", "")).strip(), event._data.get("settings")
        return {"job": blends.save(desk, who(desk, request), name, mix, config, settings).id}

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    between.click(on_strip, asked, strip, **quick)
    pick.click(on_duel, asked, duel, **quick)
    duel.select(on_choice, asked, duel, **quick)
    export.select(on_save, asked, export, **quick)


def connect_history(desk: Desk, form: Form, history, prompt, mixer) -> None:
    """A recipe back into the controls."""

    @told
    def on_restore(request: gr.Request, event: gr.EventData) -> list:
        recipe = recipe_of(desk, who(desk, request), str(event._data.get("name")))
        here = {card.path.stem for card in desk.cards() if not card.problem}
        mix = mix_value(recipe, here)
        size = "" if recipe.width == recipe.height == desk.model.side else f"{recipe.width}x{recipe.height}"
        values = {
            "seed": recipe.seed, "count": 1, "size": size, "sampler": recipe.sampler or "",
            "negative": recipe.negative, "steps": recipe.steps, "guidance": recipe.guidance,
            "clip_skip": recipe.clip_skip or "",
        }  # fmt: skip
        return [recipe.prompt, mix, *[values.get(name, gr.skip()) for name in form.controls]]

    outputs = [prompt, mixer, *form.inputs]
    history.select(on_restore, None, outputs, show_progress="hidden", api_visibility="private")


def cancel_of(desk: Desk):
    """cancel({id}): one's own ticket only."""

    @answered
    def cancel(data: dict, request: gr.Request) -> bool:
        ticket = desk.ticket(str(data["id"]))
        if ticket is not None and ticket.user == who(desk, request):
            ticket.cancel()
        return True

    return cancel


def redraw_of(desk: Desk):
    """redraw({name}) -> a ticket's id."""

    @answered
    def redraw(data: dict, request: gr.Request) -> str:
        return easel.redraw(desk, who(desk, request), str(data["name"])).id

    return redraw


def delete_of(desk: Desk):
    """throw_away({name}): a picture into the trash folder."""

    @answered
    def throw_away_picture(data: dict, request: gr.Request) -> bool:
        return bool(throw_away(desk, who(desk, request), str(data["name"])))

    throw_away_picture.__name__ = "throw_away"
    return throw_away_picture
