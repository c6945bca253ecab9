"""The source that is built for a check: the user's file, and for each kernel who launches it.

The one change to the file, for the CPU alone: ``extern __shared__`` arrays become pointers to the
memory of the model. Lines keep their numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from gpu_ladder.check.launches import DescriptionError
from gpu_ladder.places import build_folder

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_FOR_NVCC = re.compile(
    r"^\s*#\s*if(?:def\s+__CUDACC__|\s+defined\s*\(?__CUDACC__).*?^\s*#\s*endif",
    re.MULTILINE | re.DOTALL,
)
_TRIPLE = re.compile(r"<<<.*?>>>", re.DOTALL)
_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\([^)]*\)\s*)?"
    r"(?P<type>[\w:<>\s,]+?)\s+(?P<name>\w+)\s*\[\s*\]\s*;"
)

_HEAD = """\
// Written by gpu_ladder for its check of {source}.
#include <cuda_runtime.h>
#include "{included}"

#include <type_traits>

namespace gpu_ladder_check {{
template <class T>
constexpr long long kind_of() {{
  return std::is_pointer<T>::value ? 'p' : std::is_floating_point<T>::value ? 'f'
       : std::is_integral<T>::value ? 'i' : 'o';
}}
// Kinds and sizes of a kernel's parameters; how many there are.
template <class... P>
int parameters_of(void (*)(P...), long long* out) {{
  const long long rows[][2] = {{{{kind_of<P>(), (long long)sizeof(P)}}..., {{0, 0}}}};
  for (unsigned i = 0; i < sizeof...(P); ++i) out[2 * i] = rows[i][0], out[2 * i + 1] = rows[i][1];
  return (int)sizeof...(P);
}}
template <class... P>
int launch_of(void (*kernel)(P...), const unsigned* g, const unsigned* b, unsigned long long shared,
              void** arguments) {{
  if (shared > (48u << 10)) {{
    const int error = (int)cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != 0) return error;
  }}
  return (int)cudaLaunchKernel(kernel, dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), arguments,
                               (std::size_t)shared, 0);
}}
}}  // namespace gpu_ladder_check
"""

_KERNEL = """
extern "C" __attribute__((visibility("default"))) int gpu_ladder_parameters_{index}(
    long long* out) {{
  return gpu_ladder_check::parameters_of(&{kernel}, out);
}}
extern "C" __attribute__((visibility("default"))) int gpu_ladder_launch_{index}(
    const unsigned* grid, const unsigned* block, unsigned long long shared, void** arguments) {{
  return gpu_ladder_check::launch_of(&{kernel}, grid, block, shared, arguments);
}}
"""


def written(source: Path, kernels: Sequence[str], for_host: bool) -> Path:
    """The file to build, in a folder of its own; the same one for the same kernels.

    Raises:
        DescriptionError: for what neither can be built nor changed.
    """
    source = source.resolve()
    key = hashlib.sha256("\0".join([str(source), str(for_host), *kernels]).encode()).hexdigest()
    folder = build_folder() / "check" / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    included = source
    if for_host:
        included = folder / f"{source.stem}_host.cuh"
        _write(included, for_the_host(source))
    text = _HEAD.format(source=source.name, included=included)
    for index, kernel in enumerate(kernels):
        text += _KERNEL.format(index=index, kernel=kernel)
    return _write(folder / f"{source.stem}_check.cu", text)


def for_the_host(source: Path) -> str:
    """The text of a .cu file, as the host's compiler can read it."""
    text = source.read_text(encoding="utf-8")
    # Spaces in the place of comments, so that places stay.
    bare = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    _refuse_launches(source, bare)
    out, end = [], 0
    for found in _SHARED.finditer(bare):
        if bare.count("{", 0, found.start()) == bare.count("}", 0, found.start()):
            raise DescriptionError(
                f"{source}:{_line(bare, found)}: {found['name']} is declared outside of a "
                "function; declare dynamic shared memory in the kernel that uses it"
            )
        kind = " ".join(found["type"].split())
        lines = "\n" * found[0].count("\n")
        out += [
            text[end : found.start()],
            f"{kind}* const {found['name']} = "
            f"static_cast<{kind}*>(::gpu_ladder::dynamic_shared());{lines}",
        ]
        end = found.end()
    return f'#line 1 "{source}"\n' + "".join(out) + text[end:]


def _refuse_launches(source: Path, bare: str) -> None:
    """Of what nvcc alone would read, nothing is looked at."""
    shown = _FOR_NVCC.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), bare)
    launch = _TRIPLE.search(shown)
    if launch is not None:
        raise DescriptionError(
            f"{source}:{_line(shown, launch)}: a launch by <<<...>>>, which only nvcc compiles; "
            "put host code between #ifdef __CUDACC__ and #endif, or into a file of its own: the "
            "check launches kernels itself"
        )


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def _write(path: Path, text: str) -> Path:
    """Unless it is there already: what is up to date is not built again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path
