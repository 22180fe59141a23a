// An import library for one of CUDA's shared libraries: every function is a jump through a slot, and the first call
// opens the library and looks the function up. So one program starts on machines with and without a driver.
//
// Compiled once for each library, with the symbols.h that import_libraries.py wrote for it:
//   SYMBOL(index, name, kind) for every function, kind as of ABSENT_… below
//   LIBRARY       its name in error texts           NAMES      what to open, in this order
//   NOT_THERE     what functions return when it cannot be opened
//   NO_FUNCTION   what they return when it lacks them, being older
//   PRESENT       name of the function that tells whether it was opened (optional)
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

#define SYMBOL(index, name, kind)
#include "symbols.h"
#undef SYMBOL

// What is called when the library cannot be opened. Candle makes handles of cuBLAS and cuRAND with its device, whether it
// computes with them or not: those functions succeed, and those that compute say that nothing was initialised.
static int ABSENT_CODE(void) { return NOT_THERE; }
__attribute__((unused)) static int ABSENT_SUCCESS(void) { return 0; }
__attribute__((unused)) static size_t ABSENT_NUMBER(void) { return 0; }
__attribute__((unused)) static const char *ABSENT_TEXT(void) { return LIBRARY " cannot be opened"; }
__attribute__((unused)) static int ABSENT_HANDLE(void **handle) {
  static char nothing;
  *handle = &nothing;
  return 0;
}
__attribute__((unused)) static int ABSENT_ERROR_TEXT(int code, const char **text) {
  (void)code;
  *text = LIBRARY " cannot be opened";
  return 0;
}

// What is called when the library has no such function.
static int LACKS_CODE(void) { return NO_FUNCTION; }
__attribute__((unused)) static const char *LACKS_TEXT(void) { return LIBRARY " is too old"; }
#define LACKS_SUCCESS LACKS_CODE
#define LACKS_HANDLE LACKS_CODE
#define LACKS_ERROR_TEXT LACKS_CODE
#define LACKS_NUMBER ABSENT_NUMBER

static const struct {
  const char *name;
  void *absent;
  void *lacks;
} symbols[] = {
#define SYMBOL(index, name, kind) {#name, (void *)ABSENT_##kind, (void *)LACKS_##kind},
#include "symbols.h"
#undef SYMBOL
};

__attribute__((used)) static void *slots[sizeof symbols / sizeof *symbols];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;

static void open_library(void) {
  static const char *const names[] = {NAMES};
  for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++) library = dlopen(names[i], RTLD_LAZY);
}

#ifdef PRESENT
int PRESENT(void) {
  pthread_once(&once, open_library);
  return library != NULL;
}
#endif

__attribute__((used)) static void *resolve(unsigned index) {
  pthread_once(&once, open_library);
  void *function = library ? dlsym(library, symbols[index].name) : symbols[index].absent;
  if (!function) function = symbols[index].lacks;
  __atomic_store_n(&slots[index], function, __ATOMIC_RELEASE);
  return function;
}

// The first call of a function, its number in eax: keeps all registers that may carry arguments while `resolve` runs.
__asm__(".text\n"
        ".type first_call, @function\n"
        "first_call:\n"
        ".cfi_startproc\n"
        "  push %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "  mov %rsp, %rbp\n"
        ".cfi_def_cfa_register %rbp\n"
        "  push %rdi\n"
        "  push %rsi\n"
        "  push %rdx\n"
        "  push %rcx\n"
        "  push %r8\n"
        "  push %r9\n"
        "  sub $128, %rsp\n"
        "  movups %xmm0, (%rsp)\n"
        "  movups %xmm1, 16(%rsp)\n"
        "  movups %xmm2, 32(%rsp)\n"
        "  movups %xmm3, 48(%rsp)\n"
        "  movups %xmm4, 64(%rsp)\n"
        "  movups %xmm5, 80(%rsp)\n"
        "  movups %xmm6, 96(%rsp)\n"
        "  movups %xmm7, 112(%rsp)\n"
        "  mov %eax, %edi\n"
        "  call resolve\n"
        "  mov %rax, %r11\n"
        "  movups (%rsp), %xmm0\n"
        "  movups 16(%rsp), %xmm1\n"
        "  movups 32(%rsp), %xmm2\n"
        "  movups 48(%rsp), %xmm3\n"
        "  movups 64(%rsp), %xmm4\n"
        "  movups 80(%rsp), %xmm5\n"
        "  movups 96(%rsp), %xmm6\n"
        "  movups 112(%rsp), %xmm7\n"
        "  add $128, %rsp\n"
        "  pop %r9\n"
        "  pop %r8\n"
        "  pop %rcx\n"
        "  pop %rdx\n"
        "  pop %rsi\n"
        "  pop %rdi\n"
        "  pop %rbp\n"
        ".cfi_def_cfa %rsp, 8\n"
        "  jmp *%r11\n"
        ".cfi_endproc\n"
        ".size first_call, . - first_call\n");

#define SYMBOL(index, name, kind)              \
  __asm__(".globl " #name "\n"                 \
          ".type " #name ", @function\n"       \
          #name ":\n"                          \
          "  mov slots + 8*" #index "(%rip), %r11\n" \
          "  mov $" #index ", %eax\n"          \
          "  test %r11, %r11\n"                \
          "  je first_call\n"                  \
          "  jmp *%r11\n"                      \
          ".size " #name ", . - " #name "\n");
#include "symbols.h"
