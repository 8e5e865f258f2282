"""What torch sees of this machine, as one line of JSON. Run as a program by machine.py."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import sys


def seen() -> dict:
    """Its version, its devices, and what breaks when it is imported."""
    try:
        torch = importlib.import_module("torch")
    # Whatever it raises is what the person has to know.
    except Exception as error:
        return {"problem": line_of(error)}
    found = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "too_old": [], "available": False}
    try:
        found["available"] = torch.cuda.is_available()
        for number in range(torch.cuda.device_count() if found["available"] else 0):
            row, fits = cuda_device(torch, number)
            found["devices"].append(row)
            found["too_old"] += [] if fits else [row["name"]]
        if torch.backends.mps.is_available():
            most = torch.mps.recommended_max_memory()
            found["devices"].append({"kind": "mps", "name": "Apple GPU", "total": most, "precisions": ["fp32", "fp16"]})
    except Exception as error:
        found["problem"] = line_of(error)
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            found["torchvision"] = line_of(error)
    return found


def cuda_device(torch: object, number: int) -> tuple[dict, bool]:
    """(one GPU, whether this torch has code for it)."""
    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    with torch.cuda.device(number):
        half = ["bf16", "fp16"] if torch.cuda.is_bf16_supported(False) else ["fp16"]
    row = {
        "kind": "cuda", "name": about.name, "total": total, "free": free,
        "capability": f"{about.major}.{about.minor}", "precisions": ["fp32", *half],
    }  # fmt: skip
    return row, has_code(torch.cuda.get_arch_list(), about.major, about.minor)


def has_code(built: list[str], major: int, minor: int) -> bool:
    """Whether code built for these runs on a GPU: its own generation's, or what is compiled when it runs."""
    rows = [(kind, int(number.rstrip("af"))) for kind, _, number in (name.partition("_") for name in built)]
    own = 10 * major + minor
    return not rows or any(number <= own and (kind == "compute" or number // 10 == major) for kind, number in rows)


def line_of(error: Exception) -> str:
    """An error as one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


if __name__ == "__main__":
    # Libraries print notices of their own.
    with contextlib.redirect_stdout(io.StringIO()):
        answer = json.dumps(seen())
    sys.stdout.write(f"{answer}\n")
