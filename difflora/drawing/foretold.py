"""What a drawing will take, before anything of the base is loaded."""

from __future__ import annotations

from ..config import DrawConfig, parse_size
from ..events import Report, ignore
from ..models.imagined import NAMES, imagined
from ..models.needs import Need, drawing_need
from ..models.opening import how_to_open
from ..models.pace import speed
from .request import guidance_of, read_prompts
from .styles import check_fit_before, find_styles, ranks_of


def plan_drawing(config: DrawConfig, report: Report = ignore) -> tuple[int, Need]:
    """(pictures, what a batch of them needs), from the base's configs and the styles' headers; raises DiffloraError."""
    styles = find_styles(config.lora, config.loras, config)
    check_fit_before(styles, config)
    pictures = len(read_prompts(config)) * config.count
    how = how_to_open(config)
    pace = speed(how.device, NAMES[how.dtype])
    with imagined(config) as base:
        width, height = parse_size(config.size) if config.size else (base.model.side,) * 2
        windows = max(base.model.windows(prompt) for prompt in read_prompts(config))
        need = drawing_need(
            base, width=width, height=height, batch=min(config.batch, pictures), steps=config.steps,
            guidance=guidance_of(config, base.model), sampler=config.sampler, ranks=ranks_of(styles),
            folded=bool(styles), windows=windows, pace=pace,
        )  # fmt: skip
    return pictures, need
