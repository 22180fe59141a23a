// Checks the import libraries: as a program what they do without and with a library, as a shared library (-DFAKE) the
// driver of the second case, which knows two functions only.
#include <stddef.h>

#ifdef FAKE

// Integers, numbers in vector registers and arguments on the stack: all must arrive, in the first call and in later ones.
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **extra) {
  return function == &gx ? 1
                         : (int)(gx + 2 * gy + 3 * gz + 4 * bx + 5 * by + 6 * bz + 7 * shared + 8 * (size_t)stream +
                                 9 * (size_t)params + 10 * (size_t)extra + 11 * (size_t)function);
}
int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
int curandGenerateNormal(void *generator, float *out, size_t n, float mean, float deviation) {
  return generator == out && n == 3 && mean == 4.5f && deviation == 5.5f ? 0 : 999;
}

#else

#include <stdio.h>
#include <string.h>

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);
int cuGetErrorString(int code, const char **text);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int cublasCreate_v2(void **handle);
int cublasSetStream_v2(void *handle, void *stream);
int cublasSgemm_v2(void);
int cublasDestroy_v2(void *handle);
const char *cublasGetStatusString(int code);
int cublasLtCreate(void **handle);
int cublasLtMatmul(void);
int cublasLtDestroy(void *handle);
int curandCreateGenerator(void **generator, int type);
int curandSetStream(void *generator, void *stream);
int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed);
int curandGenerateNormal(void *generator, float *out, size_t n, float mean, float deviation);
int curandDestroyGenerator(void *generator);
const char *nvrtcGetErrorString(int code);
int steppe_cuda_driver_present(void);

static int failed;
#define EXPECT(what)                                                       \
  do {                                                                     \
    if (!(what)) {                                                         \
      fprintf(stderr, "error: %s:%d: %s\n", __FILE__, __LINE__, #what);    \
      failed = 1;                                                          \
    }                                                                      \
  } while (0)

static void without(void) {
  void *handle = NULL;
  int count;
  const char *text = "";
  EXPECT(!steppe_cuda_driver_present());
  EXPECT(cuInit(0) == 34);
  EXPECT(cuDeviceGetCount(&count) == 34);
  EXPECT(cuGetErrorString(34, &text) == 0 && strcmp(text, "libcuda.so.1 cannot be opened") == 0);
  EXPECT(cublasCreate_v2(&handle) == 0 && handle);
  EXPECT(cublasSetStream_v2(handle, NULL) == 0);
  EXPECT(cublasSgemm_v2() == 1);
  EXPECT(cublasDestroy_v2(handle) == 0);
  EXPECT(strstr(cublasGetStatusString(1), "libcublas.so.13"));
  EXPECT(cublasLtCreate(&handle) == 0 && cublasLtMatmul() == 1 && cublasLtDestroy(handle) == 0);
  handle = NULL;
  EXPECT(curandCreateGenerator(&handle, 100) == 0 && handle);
  EXPECT(curandSetStream(handle, NULL) == 0 && curandSetPseudoRandomGeneratorSeed(handle, 1) == 0);
  EXPECT(curandGenerateNormal(handle, NULL, 1, 0, 1) == 101);
  EXPECT(curandDestroyGenerator(handle) == 0);
  EXPECT(strstr(nvrtcGetErrorString(7), "libnvrtc.so.13"));
}

static void with(void) {
  int count;
  float out;
  EXPECT(steppe_cuda_driver_present());
  EXPECT(cuInit(0) == 0 && cuInit(1) == 1);
  EXPECT(cuDeviceGetCount(&count) == 801);
  for (int i = 0; i < 2; i++) {
    EXPECT(cuLaunchKernel((void *)1, 2, 3, 4, 5, 6, 7, 8, (void *)9, (void *)10, (void *)11) == 11 + 2 + 6 + 12 + 20 + 30 +
                                                                                                42 + 56 + 72 + 90 + 110);
    EXPECT(curandGenerateNormal(&out, &out, 3, 4.5f, 5.5f) == 0);
  }
}

int main(int count, char **arguments) {
  if (count == 2 && strcmp(arguments[1], "with") == 0) with();
  else without();
  return failed;
}

#endif
