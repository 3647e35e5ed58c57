/* The driver's symbols for devices, contexts and memory, as pycuda and cuda-bindings look for them;
 * their meaning is that of NVIDIA's documentation of the driver API. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pid_t initialised;
static __thread struct context *stack[32];
static __thread int depth;

CUresult leave(CUresult code) { unlock(); return code; }

CUresult enter(const char *routine) {
    CUresult code;
    lock();
    if ((code = injected(routine))) return code;
    return initialised == getpid() ? SUCCESS : NOT_INITIALIZED;
}

struct context *current(void) { return depth ? stack[depth - 1] : NULL; }

CUresult enter_context(const char *routine) {
    CUresult code = enter(routine);
    if (code) return code;
    if (!current() || !current()->retained) return INVALID_CONTEXT;
    return current()->broken;
}

/* Capturing forbids what could wait for the device, in this thread or in all. */
CUresult enter_unsafe(const char *routine) {
    CUresult code = enter_context(routine);
    for (struct stream *s = streams; s && !code; s = s->next)
        if (s->live && s->capture && s->capture_mode != CAPTURE_RELAXED &&
            (s->capture_mode == CAPTURE_GLOBAL || s->capture_thread == pthread_self())) {
            s->capture_broken = 1;
            code = CAPTURE_UNSUPPORTED;
        }
    return code;
}

/* --- before any context */

CUresult cuInit(unsigned int flags) {
    lock();
    CUresult code = injected("cuInit");
    if (!code) code = flags ? INVALID_VALUE : (CUresult)setting("FAKE_CUDA_INIT", SUCCESS);
    if (!code && !setting("FAKE_CUDA_DEVICES", 1)) code = NO_DEVICE;
    if (!code) initialised = getpid();
    return leave(code);
}

CUresult cuDriverGetVersion(int *version) {
    *version = (int)setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    ENTER(enter);
    *count = (int)setting("FAKE_CUDA_DEVICES", 1);
    return leave(SUCCESS);
}

static CUresult check_device(int device) {
    return device < 0 || device >= setting("FAKE_CUDA_DEVICES", 1) ? INVALID_DEVICE : SUCCESS;
}

CUresult cuDeviceGet(int *device, int ordinal) {
    ENTER(enter);
    *device = ordinal;
    return leave(check_device(ordinal));
}

CUresult cuDeviceGetName(char *name, int length, int device) {
    ENTER(enter);
    snprintf(name, (size_t)length, "Emulated GPU %d", device);
    return leave(check_device(device));
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER(enter);
    *value = attribute == 75 ? 9 : attribute == 76 ? device : 0; /* compute capability 9.device */
    return leave(check_device(device));
}

CUresult cuDeviceComputeCapability(int *major, int *minor, int device) {
    ENTER(enter);
    *major = 9;
    *minor = device;
    return leave(check_device(device));
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER(enter);
    *bytes = (size_t)setting("FAKE_CUDA_MEMORY", 1L << 30);
    return leave(check_device(device));
}

static const struct { CUresult code; const char *name, *text; } errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {STUB_LIBRARY, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE",
     "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult say(CUresult code, const char **said, int name) {
    *said = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) *said = name ? errors[i].name : errors[i].text;
    return *said ? SUCCESS : INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult code, const char **said) { return say(code, said, 1); }
CUresult cuGetErrorString(CUresult code, const char **said) { return say(code, said, 0); }

#ifndef FAKE_CUDA_OLD /* drivers before CUDA 12 lack it */
CUresult cuGetProcAddress_v2(const char *name, void **function, int version,
                             unsigned long long flags, int *status) {
    Dl_info here;
    char newest[128];
    (void)version, (void)flags;
    dladdr((void *)cuInit, &here);
    void *library = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    snprintf(newest, sizeof newest, "%s_v2", name);
    if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags";
    *function = dlsym(library, newest);
    if (!*function) *function = dlsym(library, name);
    if (status) *status = !*function;
    return *function ? SUCCESS : NOT_FOUND;
}
#endif

/* --- contexts */

CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER(enter);
    if ((code = check_device(device))) return leave(code);
    contexts[device].device = device;
    contexts[device].retained++;
    *context = &contexts[device];
    return leave(SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(enter);
    if (check_device(device) || !contexts[device].retained) return leave(INVALID_CONTEXT);
    if (!--contexts[device].retained) destroy_context(&contexts[device]);
    return leave(SUCCESS);
}

CUresult cuCtxGetCurrent(void **context) {
    ENTER(enter);
    *context = current();
    return leave(SUCCESS);
}

CUresult cuCtxSetCurrent(struct context *context) {
    ENTER(enter);
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return leave(SUCCESS);
}

CUresult cuCtxPushCurrent_v2(struct context *context) {
    ENTER(enter);
    if (context < contexts || context >= contexts + MAX_DEVICES || !context->retained)
        return leave(INVALID_CONTEXT);
    stack[depth++] = context;
    return leave(SUCCESS);
}

CUresult cuCtxPopCurrent_v2(void **context) {
    ENTER(enter);
    if (!depth) return leave(INVALID_CONTEXT);
    if (context) *context = current();
    depth--;
    return leave(SUCCESS);
}

CUresult cuCtxGetDevice(int *device) {
    ENTER(enter_context);
    *device = current()->device;
    return leave(SUCCESS);
}

/* --- memory */

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER(enter_context);
    *total = (size_t)setting("FAKE_CUDA_MEMORY", 1L << 30);
    *free_bytes = *total - current()->used;
    return leave(SUCCESS);
}

static CUresult new_block(void *out, size_t bytes, int pinned) {
    size_t total = (size_t)setting("FAKE_CUDA_MEMORY", 1L << 30);
    char *data = NULL;
    if (!bytes) return INVALID_VALUE;
    if (!pinned && bytes > total - current()->used) return OUT_OF_MEMORY;
    if (!(data = malloc(bytes))) return OUT_OF_MEMORY;
    memset(data, 0xAB, bytes);
    struct block *b = malloc(sizeof *b);
    *b = (struct block){blocks, data, bytes, current(), pinned};
    blocks = b;
    if (!pinned) current()->used += bytes;
    memcpy(out, &data, sizeof data);
    return SUCCESS;
}

static CUresult free_block(const void *data, int pinned) {
    for (struct block **at = &blocks; *at; at = &(*at)->next) {
        struct block *b = *at;
        if (b->data != data || b->pinned != pinned) continue;
        for (struct stream *s = streams; s; s = s->next)
            for (struct work *w = s->queue.head; w; w = w->next)
                if (w->kind == COPY && ((w->to >= b->data && w->to < b->data + b->bytes) ||
                                        (w->from >= b->data && w->from < b->data + b->bytes)))
                    violation("memory was freed while a copy of it was under way");
        finish_all(b->context); /* as the driver does */
        *at = b->next;
        if (!pinned) b->context->used -= b->bytes;
        memset(b->data, 0xCD, b->bytes);
        free(b->data);
        free(b);
        return SUCCESS;
    }
    return INVALID_VALUE;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    ENTER(enter_unsafe);
    return leave(new_block(pointer, bytes, 0));
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    ENTER(enter_unsafe);
    return leave(free_block((void *)pointer, 0));
}

CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned int flags) {
    ENTER(enter_unsafe);
    (void)flags;
    return leave(new_block(address, bytes, 1));
}

CUresult cuMemFreeHost(void *address) {
    ENTER(enter_unsafe);
    return leave(free_block(address, 1));
}
