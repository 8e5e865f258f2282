"""The Train page: pictures and captions, settings, the plan, runs."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from difflora.config import TrainConfig

from . import runs, trainings
from .desk import Desk
from .form import Form, control
from .show import answered, said, widget
from .words import text

BASIC = ("name", "trigger", "steps", "rank")
MORE = (
    "targets", "text_encoder", "clip_skip", "alpha", "learning_rate", "batch", "resolution", "caption_dropout",
    "shuffle_tags", "keep_tags", "tag_dropout", "crops", "flip", "ema", "holdout", "early_stop", "precision",
    "micro_batch", "gradient_checkpointing", "tensorboard", "seed", "preview_every", "preview_prompts",
)  # fmt: skip
ELSEWHERE = {
    "images": "the pictures that are dropped or opened", "base": "the head of the page", "out": "difflora ui --loras",
    "runs": "difflora ui --runs", "bases": "difflora ui --bases", "vae": "difflora ui --vae",
}  # fmt: skip
MOST_NOTES = 5
KINDS = [".png", ".jpg", ".jpeg", ".webp", ".txt", ".caption", ".json", ".jsonl", ".csv"]


def training_page(desk: Desk) -> None:
    """Lay the page out and connect it."""
    with gr.Row(elem_classes="train"):
        with gr.Column(elem_id="train-pictures", min_width=320, scale=3):
            gr.Markdown(f"## {text('train.pictures')}")
            drop = gr.File(
                label=text("train.drop"), file_count="multiple", file_types=KINDS, elem_id="drop", height=140
            )
            folder, open_it = folder_box(desk)
            pictures = widget("pictures", "pictures", functions=[*mend(desk)])
        with gr.Column(elem_id="train-settings", min_width=300, scale=2):
            gr.Markdown(f"## {text('train.settings')}")
            form = settings()
            with gr.Row(elem_classes="pair-of-buttons"):
                plan_it = gr.Button(text("train.plan"), elem_id="plan-button")
                start = gr.Button(text("train.start"), variant="primary", elem_id="start")
            plan = widget("plan", "plan", file="runs")
    widget("runs", "runs", file="runs", functions=[*talk(desk)])
    connect(desk, form, drop, folder, open_it, pictures, plan_it, start, plan)


def folder_box(desk: Desk) -> tuple[gr.Textbox, gr.Button]:
    """Name a folder on the machine; only where the studio was given folders to read."""
    roots = [path.name or str(path) for path in desk.config.images]
    with gr.Row(elem_classes="folder-row", equal_height=True, visible=bool(roots)):
        info = text("train.folder.info").format(folders=", ".join(roots))
        folder = gr.Textbox(label=text("train.folder"), info=info, elem_id="folder", scale=4, max_length=2000)
        open_it = gr.Button(text("train.open"), elem_id="open-folder", scale=0, min_width=90)
    return folder, open_it


def settings() -> Form:
    """Every field of TrainConfig that is not elsewhere on the page."""
    with gr.Row(elem_classes="tight"):
        controls = {name: control(TrainConfig, name) for name in BASIC}
    with gr.Accordion(text("train.more"), open=False, elem_id="train-more"):
        controls |= {name: control(TrainConfig, name) for name in MORE}
    return Form(TrainConfig, controls)


def connect(desk: Desk, form: Form, drop, folder, open_it, pictures, plan_it, start, plan) -> None:
    """Files in, plan out, training into the queue."""

    @said(outputs=2, rest=lambda: None)
    def on_drop(files: list[str] | None, opened: dict | None) -> tuple[dict, None]:
        if not files:
            return gr.skip(), None
        paths = [Path(file) for file in files]
        try:
            key, found = trainings.drop(desk, paths, key_of(opened))
        finally:
            for path in paths:
                path.unlink(missing_ok=True)
        for note in found.notes[:MOST_NOTES]:
            tell(note, gr.Warning)
        return shown(key), None

    @said()
    def on_open(text: str) -> dict:
        return shown(trainings.open_folder(desk, text or ""))

    def config_of(values: tuple) -> TrainConfig:
        return form.read(values, images=Path("."), base=desk.config.base)

    def measuring() -> dict:
        return {"measuring": True, "when": time.time()}

    @said()
    def on_plan(opened: dict | None, *values: object) -> dict:
        return runs.plan(desk, config_of(values), key_of(opened))

    @said()
    def on_start(opened: dict | None, *values: object) -> dict:
        name, made = runs.start(desk, config_of(values), key_of(opened))
        tell(text("train.started").format(name=name))
        return made

    quick = {"show_progress": "hidden", "api_visibility": "private"}
    drop.upload(on_drop, [drop, pictures], [pictures, drop], show_progress="minimal", api_visibility="private")
    open_it.click(on_open, folder, pictures, **quick)
    folder.submit(on_open, folder, pictures, **quick)
    planning = plan_it.click(measuring, None, plan, **quick)
    planning.then(on_plan, [pictures, *form.inputs], plan, trigger_mode="always_last", **quick)
    start.click(on_start, [pictures, *form.inputs], plan, show_progress="minimal", api_visibility="private")


def shown(key: str) -> dict:
    """What the pictures widget is given: the folder's key, and the time, so that more files make a new value."""
    return {"key": key, "when": time.time()}


def key_of(opened: dict | None) -> str:
    """The key of the folder that a page has open."""
    return str((opened or {}).get("key", ""))


def tell(words: str, kind=gr.Info) -> None:
    """A short note in the corner of the page; to Gradio it is HTML, so it is escaped."""
    kind(html.escape(words), duration=15 if kind is gr.Warning else 6)


def mend(desk: Desk) -> tuple[Callable, ...]:
    """What the pictures call: caption({key, picture, text}), leave_out({key, why}), take_back({key, pictures})."""

    @answered
    def caption(data: dict, request: gr.Request) -> bool:
        trainings.recaption(desk, str(data["key"]), str(data["picture"]), str(data["text"])[:5000])
        return True

    @answered
    def leave_out(data: dict, request: gr.Request) -> bool:
        why = {str(picture): str(reason)[:200] for picture, reason in data["why"].items()}
        trainings.leave_out(desk, str(data["key"]), why)
        return True

    @answered
    def take_back(data: dict, request: gr.Request) -> bool:
        trainings.take_back(desk, str(data["key"]), [str(picture) for picture in data["pictures"]])
        return True

    return caption, leave_out, take_back


def talk(desk: Desk) -> tuple[Callable, ...]:
    """What the runs call: speak({name, what}), more({name, count}), use({name, step}), leave({name, picture})."""

    @answered
    def speak(data: dict, request: gr.Request) -> bool:
        runs.speak(desk, str(data["name"]), str(data["what"]))
        return True

    @answered
    def more(data: dict, request: gr.Request) -> bool:
        runs.more(desk, str(data["name"]), int(data["count"]))
        return True

    @answered
    def use(data: dict, request: gr.Request) -> str:
        return runs.use(desk, str(data["name"]), int(data["step"]))

    @answered
    def leave(data: dict, request: gr.Request) -> bool:
        runs.leave_out(desk, str(data["name"]), str(data["picture"]))
        return True

    return speak, more, use, leave
