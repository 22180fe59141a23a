// Tests of the emulation: kernels whose results are known, in several orders, and kernels that misuse the card, which
// must abort. Build: g++ -std=c++20 -O2 -march=x86-64-v3 -ffp-contract=off -fno-strict-aliasing self_test.cpp
#include "../device.cuh"
#include "launch.h"

#include <random>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

static int failures = 0;

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                                     \
            failures++;                                                                                              \
        }                                                                                                            \
    } while (false)

struct Shape {
    unsigned blocks, threads, shared_bytes;
};

template <typename... Args>
int launch(const char* name, Shape shape, unsigned order, Args... args) {
    const unsigned grid[3] = {shape.blocks, 1, 1}, block[3] = {shape.threads, 1, 1};
    void* params[] = {&args...};
    return steppe_emulated_launch(name, grid, block, shape.shared_bytes, params, order);
}

// What a launch in a process of its own says before it aborts; empty where it ends well.
template <typename... Args>
std::string misuse(const char* name, Shape shape, Args... args) {
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        launch(name, shape, 0, args...);
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[512];
    for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, count);
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? text : "";
}
static bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

#include "self_test/collectives.h"
#include "self_test/memory.h"
#include "self_test/numbers.h"
#include "self_test/tensor.h"

int main() {
    test_shuffles();
    test_votes();
    test_barriers();
    test_orders();
    test_collective_misuse();
    test_shared_memory();
    test_async_copies();
    test_atomics();
    test_threads();
    test_small_floats();
    test_integers();
    test_mma();
    test_ldmatrix();
    printf(failures == 0 ? "all good\n" : "%d failures\n", failures);
    return failures != 0;
}
