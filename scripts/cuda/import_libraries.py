"""Makes the import libraries of import_library.c: libcuda.a and those of cuBLAS, cuBLASLt, cuRAND and NVRTC.

    python3 import_libraries.py CUDARC OUT      CUDARC: source folder of the crate cudarc; OUT: folder for the archives

The functions are those that cudarc declares.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# A function of every library, with its arguments and what it returns.
DECLARATION = re.compile(r'extern "C" \{\s*fn (\w+)\((.*?)\)(?: -> ([^;]+))?;')

DRIVER_FOLDERS = ["/usr/lib64", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/wsl/lib"]
TOOLKIT_FOLDERS = ["/usr/local/cuda/lib64", "/usr/lib64"]

# Archive: module of cudarc, file names, more folders, code when the library is absent, code when it lacks a function.
LIBRARIES = {
    # CUDA_ERROR_STUB_LIBRARY, so that it is not taken for CUDA_ERROR_NO_DEVICE; CUDA_ERROR_NOT_SUPPORTED.
    "cuda": ("driver", ["libcuda.so.1"], DRIVER_FOLDERS, 34, 801),
    # CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_NOT_SUPPORTED.
    "cublas": ("cublas", ["libcublas.so.13", "libcublas.so.12"], TOOLKIT_FOLDERS, 1, 15),
    "cublasLt": ("cublaslt", ["libcublasLt.so.13", "libcublasLt.so.12"], TOOLKIT_FOLDERS, 1, 15),
    # CURAND_STATUS_NOT_INITIALIZED, CURAND_STATUS_VERSION_MISMATCH.
    "curand": ("curand", ["libcurand.so.10"], TOOLKIT_FOLDERS, 101, 100),
    # NVRTC_ERROR_BUILTIN_OPERATION_FAILURE for both.
    "nvrtc": ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], TOOLKIT_FOLDERS, 7, 7),
}

# What must succeed without the library, because it only makes, sets up or destroys a handle.
HANDLE = {"cublasCreate_v2", "cublasLtCreate", "curandCreateGenerator", "curandCreateGeneratorHost"}
SUCCESS = re.compile(
    r"cublasDestroy_v2|cublasSet(Stream|Workspace|PointerMode)_v2|cublasSet(MathMode|AtomicsMode|SmCountTarget)"
    r"|cublasSetEmulationStrategy|cublasLtDestroy|curandDestroyGenerator|curandSet\w+"
)
ERROR_TEXT = {"cuGetErrorName", "cuGetErrorString"}


def kind(name: str, returns: str) -> str:
    if name in HANDLE:
        return "HANDLE"
    if SUCCESS.fullmatch(name):
        return "SUCCESS"
    if name in ERROR_TEXT:
        return "ERROR_TEXT"
    if "*const" in returns:
        return "TEXT"
    return "NUMBER" if returns in ("usize", "") else "CODE"


def symbols(library: str, cudarc: pathlib.Path) -> str:
    module, names, folders, not_there, no_function = LIBRARIES[library]
    source = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
    functions = {name: (returns or "").strip() for name, _, returns in DECLARATION.findall(source)}
    if not functions:
        sys.exit(f"error: {cudarc} declares no functions of {module}; is it another version of cudarc?")
    places = names + [f"{folder}/{names[0]}" for folder in folders]
    lines = [
        "#ifndef LIBRARY",
        f'#define LIBRARY "{names[0]}"',
        "#define NAMES " + ", ".join(f'"{place}"' for place in places),
        f"#define NOT_THERE {not_there}",
        f"#define NO_FUNCTION {no_function}",
    ]
    if library == "cuda":
        lines.append("#define PRESENT steppe_cuda_driver_present")
    lines.append("#endif")
    lines += [f"SYMBOL({i}, {name}, {kind(name, functions[name])})" for i, name in enumerate(sorted(functions))]
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} CUDARC OUT")
    cudarc, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for library in LIBRARIES:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            listed = pathlib.Path(folder) / "symbols.h"
            compiled = pathlib.Path(folder) / f"{library}.o"
            listed.write_text(symbols(library, cudarc))
            options = ["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type", "-fPIC", "-fno-toplevel-reorder", "-c"]
            subprocess.run(
                ["cc", *options, f"-I{folder}", HERE / "import_library.c", "-o", compiled], check=True
            )
            archive = out / f"lib{library}.a"
            archive.unlink(missing_ok=True)
            subprocess.run(["ar", "rcs", archive, compiled], check=True)


if __name__ == "__main__":
    main()
