/* A CUDA driver without a GPU, for tests: "device" memory is the host's, and work given to a stream
 * is done as late as CUDA allows. A missing synchronise or wait then shows stale data every time,
 * instead of once a week. fake_device.c is the device, the other two the driver's symbols.
 *
 * From the environment: FAKE_CUDA_DEVICES (1), FAKE_CUDA_MEMORY (bytes of each, 1 GiB),
 * FAKE_CUDA_VERSION (13000), FAKE_CUDA_INIT (what cuInit returns, 0).
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stddef.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, STUB_LIBRARY = 34,
    NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
    NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801,
    DRIVER_MISMATCH = 803, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    ILLEGAL_STATE = 401, UNKNOWN = 999
};
enum { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum { MAX_DEVICES = 8 };

/* The primary context of a device. */
struct context { int device, retained; size_t used; CUresult broken; };

/* Live memory: of a device, or page-locked. */
struct block { struct block *next; char *data; size_t bytes; struct context *context; int pinned; };

enum kind { COPY, CALL, RECORD, WAIT, LAUNCH };
struct work {
    struct work *next;
    enum kind kind;
    char *to, *from, *staged; size_t bytes;      /* COPY; staged: a copy of pageable memory */
    void (*function)(void *); void *argument;    /* CALL: what a kernel would do */
    struct event *event; long turn;              /* RECORD, WAIT */
    struct stream *source;                       /* WAIT: where the event was recorded */
    struct graph *graph;                         /* LAUNCH */
};
struct queue { struct work *head, *tail; };

/* Handles are never freed, so that one used too long is found out. */
struct stream {
    struct stream *next; int live; struct context *context; struct queue queue; int busy;
    struct graph *capture; int capture_mode, capture_broken; unsigned long capture_thread;
};
struct event { struct event *next; int live; struct context *context; struct stream *source;
    long recorded, done; struct graph *captured; };
struct graph { struct graph *next; int live, executable; struct context *context;
    struct queue queue; };

extern struct context contexts[MAX_DEVICES];
extern struct block *blocks;
extern struct stream *streams;
extern struct event *events;
extern struct graph *graphs;

void lock(void);
void unlock(void);
long setting(const char *name, long otherwise);
void violation(const char *text);
struct block *block_of(const void *address, size_t bytes, int pinned);
CUresult give(struct stream *stream, struct work work);
void append(struct queue *queue, const struct work *work);
void finish(struct stream *stream);
void finish_all(struct context *context);
void destroy_context(struct context *context);
CUresult injected(const char *routine);
int held(void);

/* Every symbol begins with one of these, under the lock, and ends with leave. */
CUresult enter(const char *routine);
CUresult enter_context(const char *routine);
CUresult enter_unsafe(const char *routine);
CUresult leave(CUresult code);
struct context *current(void);

#define ENTER(how) \
    CUresult code = how(__func__); \
    if (code) return leave(code)

#endif
