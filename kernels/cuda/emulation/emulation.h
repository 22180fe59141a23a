// CUDA for host C++: what the kernels of the folder above use of it, in software, so that tests run them without a
// card. Build with -std=c++20 -O2 -march=x86-64-v3 -ffp-contract=off -fno-strict-aliasing. See README.md.
#pragma once

#include "collectives.h"
#include "fibers.h"
#include "half.h"
#include "language.h"
#include "memory.h"
#include "registry.h"
#include "scalar.h"
#include "tensor.h"
