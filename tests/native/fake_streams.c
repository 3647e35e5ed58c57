/* The driver's symbols for streams, events, copies and graphs. What is stricter than the real one: a
 * graph is captured from one stream. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FIND(type, list, handle) \
    struct type *found_##type = list; \
    while (found_##type && (found_##type != (void *)(handle) || !found_##type->live)) \
        found_##type = found_##type->next; \
    if (!found_##type) return leave(INVALID_HANDLE)
#define FIND_STREAM(handle) \
    FIND(stream, streams, handle); \
    if (found_stream->capture_broken) return leave(CAPTURE_INVALIDATED)
#define NEW(type, list, out) \
    struct type *made = calloc(1, sizeof *made); \
    made->next = list; \
    made->live = 1; \
    made->context = current(); \
    list = made; \
    *(out) = made

/* --- streams and events */

CUresult cuStreamCreate(void **out, unsigned int flags) {
    ENTER(enter_context);
    (void)flags;
    NEW(stream, streams, out);
    return leave(SUCCESS);
}

CUresult cuStreamDestroy_v2(void *stream) {
    ENTER(enter_context);
    FIND(stream, streams, stream);
    finish(found_stream);
    found_stream->live = 0;
    return leave(SUCCESS);
}

CUresult cuStreamSynchronize(void *stream) {
    ENTER(enter_context);
    FIND_STREAM(stream);
    if (found_stream->capture) {
        found_stream->capture_broken = 1;
        return leave(CAPTURE_UNSUPPORTED);
    }
    held();
    finish(found_stream);
    return leave(found_stream->context->broken);
}

CUresult cuEventCreate(void **out, unsigned int flags) {
    ENTER(enter_context);
    (void)flags;
    NEW(event, events, out);
    return leave(SUCCESS);
}

CUresult cuEventDestroy_v2(void *event) {
    ENTER(enter_context);
    FIND(event, events, event);
    found_event->live = 0;
    return leave(SUCCESS);
}

CUresult cuEventRecord(void *event, void *stream) {
    ENTER(enter_context);
    FIND(event, events, event);
    FIND_STREAM(stream);
    if (found_event->context != found_stream->context) return leave(INVALID_HANDLE);
    found_event->captured = found_stream->capture;
    if (found_stream->capture) return leave(SUCCESS); /* one stream: its order says all */
    found_event->source = found_stream;
    found_event->recorded++;
    return leave(give(found_stream, (struct work){.kind = RECORD, .event = found_event,
                                                  .turn = found_event->recorded}));
}

CUresult cuStreamWaitEvent(void *stream, void *event, unsigned int flags) {
    ENTER(enter_context);
    (void)flags;
    FIND(event, events, event);
    FIND_STREAM(stream);
    if (found_event->captured != found_stream->capture) return leave(NOT_SUPPORTED);
    if (found_stream->capture || !found_event->recorded) return leave(SUCCESS);
    return leave(give(found_stream,
                      (struct work){.kind = WAIT, .event = found_event,
                                    .turn = found_event->recorded, .source = found_event->source}));
}

/* --- copies: as the driver documents them, asynchronous for page-locked memory alone */

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    ENTER(enter_context);
    FIND_STREAM(stream);
    if (!block_of((void *)to, bytes, 0)) return leave(INVALID_VALUE);
    struct work w = {.kind = COPY, .to = (char *)to, .from = (char *)from, .bytes = bytes};
    if (!block_of(from, bytes, 1)) {
        if (found_stream->capture) {
            found_stream->capture_broken = 1;
            return leave(CAPTURE_UNSUPPORTED);
        }
        w.staged = malloc(bytes);
        memcpy(w.staged, from, bytes);
    }
    return leave(give(found_stream, w));
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    ENTER(enter_context);
    FIND_STREAM(stream);
    int pinned = block_of(to, bytes, 1) != NULL;
    if (!block_of((void *)from, bytes, 0)) return leave(INVALID_VALUE);
    if (!pinned && found_stream->capture) {
        found_stream->capture_broken = 1;
        return leave(CAPTURE_UNSUPPORTED);
    }
    code = give(found_stream, (struct work){.kind = COPY, .to = to, .from = (char *)from,
                                            .bytes = bytes});
    if (!pinned) finish(found_stream);
    return leave(code);
}

/* --- graphs */

CUresult cuStreamBeginCapture_v2(void *stream, int mode) {
    ENTER(enter_context);
    FIND_STREAM(stream);
    if (found_stream->capture) return leave(ILLEGAL_STATE);
    void *ignored;
    NEW(graph, graphs, &ignored);
    found_stream->capture = made;
    found_stream->capture_mode = mode;
    found_stream->capture_thread = pthread_self();
    return leave(SUCCESS);
}

CUresult cuStreamEndCapture(void *stream, void **graph) {
    ENTER(enter_context);
    FIND(stream, streams, stream);
    *graph = found_stream->capture;
    if (!found_stream->capture) return leave(ILLEGAL_STATE);
    found_stream->capture = NULL;
    if (!found_stream->capture_broken) return leave(SUCCESS);
    ((struct graph *)*graph)->live = 0;
    *graph = NULL;
    found_stream->capture_broken = 0;
    return leave(CAPTURE_INVALIDATED);
}

CUresult cuGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) {
    ENTER(enter_context);
    (void)flags;
    FIND(graph, graphs, graph);
    NEW(graph, graphs, out);
    made->executable = 1;
    for (struct work *w = found_graph->queue.head; w; w = w->next) append(&made->queue, w);
    return leave(SUCCESS);
}

CUresult cuGraphLaunch(void *graph, void *stream) {
    ENTER(enter_context);
    FIND(graph, graphs, graph);
    FIND_STREAM(stream);
    if (!found_graph->executable) return leave(INVALID_HANDLE);
    return leave(give(found_stream, (struct work){.kind = LAUNCH, .graph = found_graph}));
}

static CUresult destroy_graph(void *graph, int executable) {
    FIND(graph, graphs, graph);
    if (found_graph->executable != executable) return leave(INVALID_HANDLE);
    found_graph->live = 0;
    return leave(SUCCESS);
}

CUresult cuGraphDestroy(void *graph) { ENTER(enter_context); return destroy_graph(graph, 0); }
CUresult cuGraphExecDestroy(void *graph) { ENTER(enter_context); return destroy_graph(graph, 1); }
