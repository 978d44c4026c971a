/*
 * A process that holds GPU memory: so many MiB on the first device, by the driver's own
 * interface, until its input ends. It needs no CUDA to be built.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef unsigned long long u64;

static void *library;

static void *call(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        printf("libcuda has no %s\n", name);
        exit(1);
    }
    return found;
}

static void check(int code, const char *what) {
    if (code) {
        printf("%s: error %d\n", what, code);
        exit(1);
    }
}

int main(int count, char **words) {
    int device;
    void *context;
    u64 memory;
    size_t bytes = (size_t)atol(count > 1 ? words[1] : "1") << 20;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        printf("%s\n", dlerror());
        return 1;
    }
    int (*init)(unsigned) = (int (*)(unsigned))call("cuInit");
    int (*get)(int *, int) = (int (*)(int *, int))call("cuDeviceGet");
    int (*create)(void **, unsigned, int) = (int (*)(void **, unsigned, int))call("cuCtxCreate_v2");
    int (*take)(u64 *, size_t) = (int (*)(u64 *, size_t))call("cuMemAlloc_v2");
    check(init(0), "cuInit");
    check(get(&device, 0), "cuDeviceGet");
    check(create(&context, 0, device), "cuCtxCreate");
    check(take(&memory, bytes), "cuMemAlloc");
    printf("holds\n");
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
