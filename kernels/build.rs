//! Compiles `cuda/*.cu`: by nvcc into one fat binary a file with the feature `cuda`, for this processor with the feature
//! `cuda-emulation`. Without them it does nothing.
//!
//! Environment with `cuda`: `CUDA_HOME` is where nvcc lies (`scripts/setup-cuda` makes it), `STEPPE_NVCC` another nvcc,
//! `STEPPE_CUDA_ARCHS` the compute capabilities to make code for. Writes `fatbins.rs` and `ptxas.txt`, which says what
//! registers and memory each kernel takes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Turing, Ampere (A100, then the others), Ada and Hopper. Newer cards translate the PTX of the last one.
const ARCHS: &str = "75 80 86 89 90";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(message) = fatbins()
    {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
    #[cfg(feature = "cuda-emulation")]
    emulation();
}

fn fatbins() -> Result<(), String> {
    for name in ["CUDA_HOME", "STEPPE_CUDA_ARCHS", "STEPPE_NVCC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let nvcc = nvcc()?;
    let targets = targets(&env::var("STEPPE_CUDA_ARCHS").unwrap_or_else(|_| ARCHS.to_owned()))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let mut table = String::from("pub(crate) const FATBINS: &[(&str, &[u8])] = &[\n");
    let mut report = String::new();
    for source in sources()? {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let fatbin = out.join(&name).with_extension("fatbin");
        report += &compile(&nvcc, &targets, &source, &fatbin)?;
        let _ = writeln!(table, r#"    ("{name}", include_bytes!(concat!(env!("OUT_DIR"), "/{name}.fatbin"))),"#);
    }
    table += "];\n";
    write(&out.join("fatbins.rs"), &table)?;
    write(&out.join("ptxas.txt"), &report)
}

/// `STEPPE_NVCC`, else that of `CUDA_HOME`.
fn nvcc() -> Result<PathBuf, String> {
    if let Some(nvcc) = env::var_os("STEPPE_NVCC") {
        return Ok(nvcc.into());
    }
    let home = env::var_os("CUDA_HOME")
        .ok_or("CUDA_HOME is not set: run scripts/setup-cuda and source the env.sh that it names")?;
    Ok(Path::new(&home).join("bin/nvcc"))
}

/// nvcc's arguments for machine code of every compute capability in the list and for PTX of the highest.
fn targets(list: &str) -> Result<Vec<String>, String> {
    let archs = list
        .split_whitespace()
        .map(|arch| match arch.parse::<u32>() {
            Ok(number @ 75..=999) => Ok(number),
            _ => Err(format!("STEPPE_CUDA_ARCHS: `{arch}` is not a compute capability of 75 or more, such as 90")),
        })
        .collect::<Result<BTreeSet<_>, _>>()?;
    let highest = *archs.last().ok_or("STEPPE_CUDA_ARCHS is empty; an example: 80 90")?;
    let mut targets: Vec<_> = archs.iter().map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")).collect();
    targets.push(format!("-gencode=arch=compute_{highest},code=compute_{highest}"));
    Ok(targets)
}

/// The kernels' files, in the order of their names.
fn sources() -> Result<Vec<PathBuf>, String> {
    let mut sources = Vec::new();
    for entry in fs::read_dir("cuda").map_err(|error| format!("kernels/cuda: {error}"))? {
        let path = entry.map_err(|error| format!("kernels/cuda: {error}"))?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Compiles one file. Returns what the assembler says of its kernels.
fn compile(nvcc: &Path, targets: &[String], source: &Path, fatbin: &Path) -> Result<String, String> {
    let threads = env::var("NUM_JOBS").unwrap_or_else(|_| "1".to_owned());
    let output = Command::new(nvcc)
        .args(["-fatbin", "-O3", "-std=c++20", "--compress-mode=size", "-Werror=all-warnings", "-Xptxas=-v"])
        .args(targets)
        .args(["--threads", &threads])
        .arg(source)
        .arg("-o")
        .arg(fatbin)
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(format!("# {}\n{text}", source.display()));
    }
    Err(format!("{text}nvcc failed on kernels/{}", source.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The kernels as a static library of functions for this processor.
#[cfg(feature = "cuda-emulation")]
fn emulation() {
    println!("cargo::rerun-if-changed=cuda");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).warnings(true).extra_warnings(true);
    // `#pragma unroll` is nvcc's.
    build.flag("-Wno-unknown-pragmas");
    // As on a card: no multiplication and addition is fused unasked, and memory has no types.
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        build.flag("-march=x86-64-v3");
    }
    build.file("cuda/emulation/emulation.cpp").compile("steppe_emulation");
}
