// The kernels by name, each with a function that unpacks the parameters of a launch.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace emulation {

struct Kernel {
    const char* name;
    void (*call)(void** params);
    Kernel* next;
    static inline Kernel* first = nullptr;

    Kernel(const char* name, void (*call)(void**)) : name(name), call(call), next(first) { first = this; }
};

// The launch's bytes need not lie as the type wants.
template <typename T>
T parameter(const void* from) {
    std::array<std::byte, sizeof(T)> bytes;
    memcpy(&bytes, from, sizeof(T));
    return std::bit_cast<T>(bytes);
}

template <typename... Args, std::size_t... I>
void call_kernel(void (*kernel)(Args...), [[maybe_unused]] void** params, std::index_sequence<I...>) {
    kernel(parameter<std::remove_cv_t<Args>>(params[I])...);
}
template <typename... Args>
void call_kernel(void (*kernel)(Args...), void** params) {
    call_kernel(kernel, params, std::index_sequence_for<Args...>());
}

} // namespace emulation

#define EXPORT_KERNEL(name)                                                                                          \
    [[maybe_unused]] static ::emulation::Kernel emulated_##name(                                                     \
        #name, [](void** params) { ::emulation::call_kernel(name, params); });
