"""A model that says what is in a picture: BLIP, BLIP-2, GIT, Florence-2, or one that is asked in words (LLaVA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import nn

from ..errors import BaseModelError, RequestError

Mode = Literal["content", "full", "tags"]
HOW_TO_GET_ONE = "--with Salesforce/blip-image-captioning-base fetches one of 1 GB, --with FOLDER opens one you have"
# For models that are asked in words.
QUESTIONS = {
    "content": "Say in one short sentence what is shown: the subject, what it does, what else is there and where. "
    "Do not mention style, medium, technique, artist, quality or mood.",
    "full": "Describe this picture in one or two sentences.",
    "tags": "List what is shown in this picture as short tags with commas between them, the subject first. "
    "No tags for style, medium, technique, artist or quality.",
}
# Florence-2 is asked by task; it follows no instructions.
TASKS = {"content": "<CAPTION>", "full": "<MORE_DETAILED_CAPTION>"}
LENGTHS = {"content": 60, "full": 160, "tags": 100}


@dataclass(frozen=True, eq=False)
class Captioner:
    """An open captioning model; it answers the same picture with the same words."""

    name: str
    model: nn.Module
    processor: object

    @property
    def asked(self) -> Literal["in words", "by task", "not at all"]:
        """How the model is told what to say."""
        if self.model.config.model_type == "florence2":
            return "by task"
        return "in words" if getattr(self.processor, "chat_template", None) else "not at all"

    def question(self, mode: Mode, prompt: str | None = None) -> str:
        """What the model is asked; `prompt` as it is when there is one. RequestError for a mode it has no answer to."""
        if prompt is not None:
            return prompt
        if mode == "tags" and self.asked != "in words":
            raise RequestError(f"--mode tags: {self.name} follows no instructions, expected --mode content or full")
        return {"in words": QUESTIONS, "by task": TASKS}.get(self.asked, {}).get(mode, "")

    @torch.inference_mode()
    def describe(
        self, pictures: Sequence[Image.Image], question: str = "", length: int = LENGTHS["content"]
    ) -> list[str]:
        """What the model says of each RGB picture, in at most `length` tokens; raises BaseModelError.

        question: what `question` gave; for a model that is not asked, the words that its captions begin with.
        """
        try:
            inputs = self._inputs(list(pictures), question)
            # The likeliest word each time: a caption can be made again.
            answers = self.model.generate(**inputs, max_new_tokens=length, do_sample=False, num_beams=1)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise BaseModelError(
                f"captions: {self.name} failed: {first_line(error)}; try a smaller --batch or another model"
            ) from error
        if self.asked == "in words":
            answers = answers[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(answers, skip_special_tokens=True)
        begins = question if self.asked == "not at all" else ""
        return [" ".join(text.split()).removeprefix(begins).strip() for text in texts]

    def _inputs(self, pictures: list[Image.Image], question: str) -> dict[str, torch.Tensor]:
        """Pictures and question as tensors on the model's device, in its precision."""
        if self.asked == "in words":
            inputs = self.processor.apply_chat_template(
                [
                    [{"role": "user", "content": [{"type": "image", "image": p}, {"type": "text", "text": question}]}]
                    for p in pictures
                ],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        elif question:
            inputs = self.processor(images=pictures, text=[question] * len(pictures), return_tensors="pt", padding=True)
        else:
            inputs = self.processor(images=pictures, return_tensors="pt")
        device, dtype = self.model.device, self.model.dtype
        return {
            key: value.to(device, dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
            if key != "token_type_ids"
        }


def open_captioner(name: str, device: str) -> Captioner:
    """Open a captioning model from a folder or by its hub id: bfloat16 on CUDA, else float32; raises BaseModelError."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    there = Path(name).is_dir()
    if not there and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise BaseModelError(f"--with {name}: found no folder there, expected a captioning model; {HOW_TO_GET_ONE}")
    place = str(Path(name).resolve()) if there else name
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    # It would be told to install a package that is not needed.
    logging.set_verbosity_error()
    try:
        processor = AutoProcessor.from_pretrained(place)
        model = AutoModelForImageTextToText.from_pretrained(
            place, dtype=torch.bfloat16 if device == "cuda" else torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        # Qwen-VL and SmolVLM read pictures with a part that is made for films.
        why = first_line(error) if "orchvision" not in str(error) else "it needs torchvision, which is not installed"
        raise BaseModelError(
            f"--with {name}: found no captioning model that opens ({why}), expected one; {HOW_TO_GET_ONE}"
        ) from error
    finally:
        logging.set_verbosity(level)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise BaseModelError(f"--with {name}: found no reader of pictures in it, expected one; {HOW_TO_GET_ONE}")
    # Answers begin where the question ends, so what fills short rows must stand before it.
    processor.tokenizer.padding_side = "left"
    return Captioner(name, model.eval().requires_grad_(False).to(device), processor)


def first_line(error: Exception) -> str:
    """What a library says, as far as it fits into one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]
