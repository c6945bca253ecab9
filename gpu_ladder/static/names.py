"""Short names for kernels: ``moments_kernel<bfloat16, variance>`` for a mangled template."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping

from gpu_ladder.static.toolchain import Toolchain

_TEMPLATE = re.compile(
    r"template\s*<(?P<parameters>[^;{}()]*?)>\s*"
    r"(?:__global__|static|inline|__launch_bounds__\s*\([^()]*\)|void|\s)+\s*(?P<name>\w+)\s*\(",
)
_TYPES = {
    "__nv_bfloat16": "bfloat16",
    "__half": "float16",
    "float": "float32",
    "double": "float64",
    "unsigned int": "uint32",
    "int": "int32",
    "long": "int64",
}
_QUALIFIER = re.compile(r"(?:\w+::|\(anonymous namespace\)::)+")


def template_parameters(source: str) -> dict[str, list[str]]:
    """Names of the template parameters of every kernel template in ``source``."""
    found = {}
    for match in _TEMPLATE.finditer(source):
        parameters = match["parameters"].split(",")
        found[match["name"]] = [
            (re.findall(r"\w+", parameter.partition("=")[0]) or [""])[-1]
            for parameter in parameters
        ]
    return found


def short_names(
    tools: Toolchain, mangled: Iterable[str], parameters: Mapping[str, list[str]]
) -> dict[str, str]:
    """A short name for each mangled one; the demangled one where two would be the same."""
    names = sorted(mangled)
    done = subprocess.run(
        [str(tools.cxxfilt)], input="\n".join(names), capture_output=True, text=True, check=True
    )
    demangled = dict(zip(names, done.stdout.splitlines(), strict=True))
    short = {name: shorten(full, parameters) for name, full in demangled.items()}
    taken = list(short.values())
    return {name: s if taken.count(s) == 1 else demangled[name] for name, s in short.items()}


def shorten(demangled: str, parameters: Mapping[str, list[str]]) -> str:
    """Drop return type, namespaces and arguments; name the template arguments.

    A true argument appears as the name of its parameter, a false one not at all, a number as
    ``name=number``.
    """
    head = _without_arguments(demangled)
    name, bracket, inside = head.partition("<")
    name = _QUALIFIER.sub("", name).split()[-1]
    if not bracket:
        return name
    arguments = _split(inside.removesuffix(">"))
    names = parameters.get(name, [])
    if len(names) != len(arguments):
        names = [""] * len(arguments)
    shown = [_shown(a, n) for a, n in zip(arguments, names, strict=True)]
    return f"{name}<{', '.join(text for text in shown if text)}>"


def _shown(argument: str, name: str) -> str:
    if argument in ("true", "false") and name:
        return name if argument == "true" else ""
    value = re.sub(r"^\((?!anonymous)[^()]*\)", "", argument)  # a cast: (long)4, (Mode)1
    value = re.sub(r"(?<=\d)[uU]?[lL]*$", "", value)
    if re.fullmatch(r"-?\d+", value):
        return f"{name}={value}" if name else value
    value = _QUALIFIER.sub("", value)
    return _TYPES.get(value, value)


def _without_arguments(demangled: str) -> str:
    """Cut the list of arguments off: what opens the last bracket at depth 0."""
    depth = 0
    for position in range(len(demangled) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(demangled[position], 0)
        if demangled[position] == "(" and depth == 0:
            return demangled[:position]
    return demangled


def _split(inside: str) -> list[str]:
    """Split template arguments at commas outside of brackets."""
    parts, depth = [""], 0
    for character in inside:
        depth += {"<": 1, "(": 1, ">": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
