"""NVRTC through ctypes: compile a CUDA text for a device that is not there, and read what the assembler says of it."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cuda_on_cpu.runner import alone, digest, folder

# What CuPy passes for a RawModule; -v makes the assembler report registers and spills.
OPTIONS = ("-ftz=true", "--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")


@dataclass(frozen=True)
class Usage:
    """What one kernel needs of a multiprocessor."""

    registers: int
    spills: int  # bytes stored and loaded
    stack: int  # bytes of local memory


@cache
def library() -> ctypes.CDLL | None:
    """The package ``nvidia-cuda-nvrtc``, or None."""
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return None
    found = sorted(f for root in spec.submodule_search_locations for f in Path(root).glob("**/libnvrtc*.so*"))
    builtins = [f for f in found if "builtins" in f.name and ".alt." not in f.name]
    compilers = [f for f in found if "builtins" not in f.name and ".alt." not in f.name]
    if not builtins or not compilers:
        return None
    ctypes.CDLL(str(builtins[-1]), ctypes.RTLD_GLOBAL)  # or the compiler looks for it on the system's path
    return ctypes.CDLL(str(compilers[-1]))


def compile_for(arch: str, text: str, options: Sequence[str] = OPTIONS) -> dict[str, Usage]:
    """Compile for ``arch`` (sm_90, ...); the usage of each kernel. AssertionError with the compiler's words."""
    return usage(_compile(arch, text, options)[0])


def assembly(arch: str, text: str) -> str:
    """The PTX for ``arch`` (compute_90, ...)."""
    return _compile(arch, text, OPTIONS[:-1])[1]


def _compile(arch: str, text: str, options: Sequence[str]) -> tuple[str, str]:
    """What the compiler says, and the PTX where ``arch`` asks for it; kept by content, as g++'s are."""
    nvrtc = library()
    assert nvrtc is not None
    built = str(Path(nvrtc._name).stat().st_mtime_ns)
    kept = folder() / f"{digest(nvrtc._name, built, arch, *options, text)}.json"
    if not kept.exists():
        with alone(kept.stem), tempfile.TemporaryDirectory(dir=folder()) as work:
            if not kept.exists():
                file = Path(work) / kept.name
                file.write_text(json.dumps(_compiled(nvrtc, arch, text, options)), encoding="utf-8")
                file.replace(kept)
    words, ptx = json.loads(kept.read_text(encoding="utf-8"))
    return words, ptx


def _compiled(nvrtc: ctypes.CDLL, arch: str, text: str, options: Sequence[str]) -> tuple[str, str]:
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"text.cu", 0, None, None) == 0
    try:
        given = [f"-arch={arch}".encode(), *(o.encode() for o in options)]
        code = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        ptx = b""
        if code == 0 and arch.startswith("compute"):
            nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
            held = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetPTX(program, held)
            ptx = held.value
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    words = log.value.decode(errors="replace")
    assert code == 0, words[:4000]
    assert "warning" not in words, words[:4000]
    return words, ptx.decode()


def usage(log: str) -> dict[str, Usage]:
    """From the assembler's report."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = (
            sum(map(int, re.findall(rf"(\d+) bytes {what}", part)))  # and of the functions that it calls
            for what in ("stack frame", "spill stores", "spill loads")
        )
        registers = int(re.search(r"Used (\d+) registers", part)[1])  # type: ignore[index]
        found[part[: part.index("'")]] = Usage(registers, stores + loads, stack)
    return found
